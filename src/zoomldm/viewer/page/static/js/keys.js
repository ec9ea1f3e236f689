/** Keys: their actions, and the table that lists them. */

/**
 * @param {Array<[string[], string, Function]>} bindings keys, description, action
 * @param {HTMLElement} table where they are listed
 */
export function bindKeys(bindings, table) {
  const actions = new Map();
  for (const [keys, , action] of bindings) for (const key of keys) actions.set(key, action);
  table.replaceChildren(
    ...bindings.map(([keys, words]) => {
      const row = document.createElement("tr");
      const left = document.createElement("td");
      const right = document.createElement("td");
      keys.slice(0, 4).forEach((key) => {
        const cap = document.createElement("kbd");
        cap.textContent = NAMES[key] ?? key.toUpperCase();
        left.append(cap, " ");
      });
      right.textContent = words;
      row.append(left, right);
      return row;
    }),
  );
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, select, textarea, dialog[open]")) return;
    const inRadios = event.target.closest('[role="radiogroup"], [role="slider"]');
    if (inRadios && event.key.startsWith("Arrow")) return;
    const action = actions.get(event.key) ?? actions.get(event.key.toLowerCase());
    if (!action) return;
    event.preventDefault();
    action(event);
  });
}

const NAMES = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓" };
