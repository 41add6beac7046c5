/* Which keys move the selection? They are sent together when the page has drawn what was asked before. */
window.dash_clientside = window.dash_clientside || {};
(() => {
    const MOVES = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "[", "]", "Escape"];
    const PATIENCE = 3000; // ms; a server that does not answer must not silence the keys

    let waiting = [];
    let sentAt = 0; // 0: the page is settled
    let sent = 0;

    function send() {
        if (waiting.length && performance.now() - sentAt > PATIENCE) {
            sentAt = performance.now();
            window.dash_clientside.set_props("keys", {data: {keys: waiting, n: ++sent}});
            waiting = [];
        }
    }

    window.dash_clientside.keys = {
        settled(done) {
            if (done === undefined || done === null || done >= sent) {
                sentAt = -Infinity;
                requestAnimationFrame(send);
            }
        },
    };
    sentAt = -Infinity;

    const isTyping = element => element.isContentEditable || ["INPUT", "TEXTAREA", "SELECT"].includes(element.tagName);

    addEventListener("keydown", event => {
        if (isTyping(event.target)) {
            if (event.key === "Escape") {
                event.target.blur();
            }
            return;
        }
        // AltGr writes the brackets on many keyboards.
        const withModifier = (event.ctrlKey || event.metaKey || event.altKey) && !event.getModifierState("AltGraph");
        if (withModifier || document.querySelector(".modal.show")) {
            return;
        }
        if (event.key === "?") {
            document.getElementById("help-open").click();
        } else if (document.documentElement.dataset.page !== "workspace") {
            return; // arrows move in lists and tables there
        } else if (event.key === "/") {
            event.preventDefault();
            document.getElementById("image-card-search").focus();
        } else if (MOVES.includes(event.key)) {
            if (event.key.startsWith("Arrow")) {
                event.preventDefault();
            }
            waiting.push(event.key);
            send();
        }
    });
})();
