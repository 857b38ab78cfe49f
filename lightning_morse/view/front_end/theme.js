// Light or dark: as the system has it until one is chosen here, or in the address by #theme=dark.

// root: what is themed. button: what changes it. onChange: is told afterwards.
export function followTheme(root, button, onChange) {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  let chosen = new URLSearchParams(location.hash.slice(1)).get("theme");
  const apply = () => {
    const now = chosen ?? (dark.matches ? "dark" : "light");
    const other = now === "dark" ? "light" : "dark";
    root.dataset.theme = now;
    button.textContent = other === "dark" ? "Dark" : "Light";
    button.setAttribute("aria-label", `${button.textContent}: switch to the ${other} theme`);
  };
  apply();
  button.addEventListener("click", () => {
    chosen = root.dataset.theme === "dark" ? "light" : "dark";
    apply();
    onChange();
  });
  dark.addEventListener("change", () => {
    apply();
    onChange();
  });
}
