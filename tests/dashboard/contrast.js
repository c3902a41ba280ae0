// The lowest contrast of any text on the page with what lies behind it (WCAG 2.2, 1.4.3), and whose it is.
() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const drawn = (colour, under) => {
    for (const one of [`rgb(${under})`, colour]) {
      canvas.fillStyle = one;
      canvas.fillRect(0, 0, 1, 1);
    }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const behind = (element) => {
    const around = element.parentElement ? behind(element.parentElement) : [255, 255, 255];
    return drawn(getComputedStyle(element).backgroundColor, around);
  };
  const luminance = (colour) => {
    const [r, g, b] = colour.map((v) => (v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  document.querySelectorAll("details").forEach((one) => { one.open = true; });
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const written = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && /[^\s·]/.test(node.data));
    if (!written || !element.getClientRects().length) continue;
    const style = getComputedStyle(element), under = behind(element);
    const colours = [drawn(element.closest("svg") ? style.fill : style.color, under), under];
    const [low, high] = colours.map(luminance).sort((a, b) => a - b);
    found.push([(high + 0.05) / (low + 0.05), element.outerHTML.slice(0, 120)]);
  }
  return found.sort(([a], [b]) => a - b)[0];
}
