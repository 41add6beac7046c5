/* When is the selected head pruned? Once the selection stays as it is; then it is asked for until a result is there. */
window.dash_clientside = window.dash_clientside || {};
(() => {
    const SOON = 400; // ms; what follows a selection so soon waits until the selections stop for QUIET
    const QUIET = 200;
    const AGAIN = 300;

    let held = false; // an arrow key is held down
    let last = -Infinity;
    let timer;

    addEventListener("keydown", event => { held = event.repeat; });
    addEventListener("keyup", () => { held = false; });
    addEventListener("blur", () => { held = false; });

    const write = (id, props) => window.dash_clientside.set_props(id, props);

    window.dash_clientside.pruning = {
        settle(selection) {
            clearTimeout(timer);
            if (selection?.card !== "pruning") {
                return;
            }
            const now = performance.now();
            const ask = () => {
                if (held) {
                    timer = setTimeout(ask, QUIET);
                } else {
                    write("pruning-settled", {data: selection});
                }
            };
            if (held || now - last < SOON) {
                write("pruning", {className: "pruning stale"});
                timer = setTimeout(ask, QUIET);
            } else {
                ask();
            }
            last = now;
        },

        again(waiting) {
            if (waiting && !waiting.ended) {
                clearTimeout(timer);
                timer = setTimeout(() => write("pruning-again", {data: waiting}), AGAIN);
            }
        },
    };
})();
