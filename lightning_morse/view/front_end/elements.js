// Elements of the page. Text from data only ever becomes text nodes, never markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  const present = children.filter((child) => child !== null);
  node.append(...present.map((child) => (child instanceof Node ? child : String(child))));
  return node;
}

export function html(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

export function svgText(x, y, content, attributes = {}) {
  return svg("text", { x, y, ...attributes }, content);
}

export function svgLine(x1, y1, x2, y2, attributes = {}) {
  return svg("line", { x1, x2, y1, y2, ...attributes });
}
