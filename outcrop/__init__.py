"""outcrop"""
