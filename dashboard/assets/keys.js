/* Which keys move the selection? What they do is said in dashboard/selection.py; those of one panel are its own. */
(() => {
    const MOVES = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "[", "]", "b", "u", "Escape"];
    const isTyping = element => element.isContentEditable || ["INPUT", "TEXTAREA", "SELECT"].includes(element.tagName);
    let under = ""; // the panel under the pointer

    addEventListener("pointerover", event => { under = event.target.closest?.(".stage .panel")?.dataset.panel ?? under; });

    addEventListener("keydown", event => {
        if (event.defaultPrevented) {
            return; // a slider or a menu has taken it
        }
        if (isTyping(event.target)) {
            if (event.key === "Escape") {
                event.target.blur();
            }
            return;
        }
        // AltGr writes the brackets on many keyboards.
        const withModifier = (event.ctrlKey || event.metaKey || event.altKey) && !event.getModifierState("AltGraph");
        if (withModifier || document.querySelector(".modal.show, dialog[open]")) {
            return;
        }
        if (event.key === "?") {
            document.getElementById("help-open").click();
        } else if (document.documentElement.dataset.page !== "workspace") {
            return; // arrows move in lists and tables there
        } else if (event.key === "/") {
            event.preventDefault();
            document.getElementById("search").focus();
        } else if (event.key === "f") {
            const panel = headscope.selection?.large || document.activeElement.closest?.(".stage .panel")?.dataset.panel || under;
            headscope.gesture("large", panel);
        } else if (MOVES.includes(event.key)) {
            if (event.key.startsWith("Arrow")) {
                event.preventDefault();
            }
            headscope.gesture("key", event.key);
        }
    });
})();
