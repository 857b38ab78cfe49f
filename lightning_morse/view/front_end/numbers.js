// Numbers in words.

// A number in three digits; a small one by its exponent, as 0.00000631 has no room in a node.
export function short(x) {
  if (x === null || Number.isNaN(x)) return "?";
  const rounded = Number(x.toPrecision(3));
  const small = rounded !== 0 && Math.abs(rounded) < 1e-3;
  return small ? rounded.toExponential() : String(rounded);
}

export function percent(share) {
  if (share > 0 && share < 0.01) return "< 1 %";
  if (share > 0.99 && share < 1) return "> 99 %";
  return `${Math.round(100 * share)} %`;
}

// The bound of a claim after a dot; empty where nothing is claimed.
export function claimBound(facts) {
  return claims(facts) ? ` · mu ≥ ${bound(facts)}` : "";
}

// Whether anything is claimed. Older records give a bound where nothing is.
export function claims({ claim, mu }) {
  return mu > 0 && claim !== "no certain attractor";
}

// A lower bound on a probability, as the record writes it; of records of older versions, with three
// decimals, rounded down.
export function bound({ mu, bound: written }) {
  if (mu === null) return "";
  return written ?? String(Math.floor(mu * 1e3 + 1e-9) / 1e3);
}
