"""Pure functions of counts, weights and probabilities. A value that was not measured is NaN, never zero."""
