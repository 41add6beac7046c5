/* What must hold before any other script runs? It stands in the page itself (dashboard/app.py), so that it always loads. */
{
    /* In a plain object, "__proto__" is a name like any other. By the language's own rule, an index of words that somebody's
       class or folder is called so would write into what all objects inherit from, and break the page for everybody. */
    const {get, set} = Object.getOwnPropertyDescriptor(Object.prototype, "__proto__");
    const isPlain = object => object === Object.prototype || Object.getPrototypeOf(object) === Object.prototype;
    Object.defineProperty(Object.prototype, "__proto__", {
        get() {
            return isPlain(this) ? undefined : get.call(this);
        },
        set(value) {
            if (isPlain(this)) {
                Object.defineProperty(this, "__proto__", {value, writable: true, enumerable: true, configurable: true});
            } else {
                set.call(this, value);
            }
        },
    });

    /* A script or a style sheet of this server that does not arrive leaves a page that looks whole and does nothing. */
    const listening = new AbortController();
    addEventListener("error", ({target}) => {
        if (target instanceof Element && target.matches("script, link[rel=stylesheet]") && (target.src || target.href).startsWith(location.origin)) {
            listening.abort();
            sayUnloaded();
        }
    }, {capture: true, signal: listening.signal});

    function sayUnloaded() {
        const box = document.createElement("div"), words = document.createElement("p"), button = document.createElement("button");
        box.setAttribute("role", "alert");
        box.id = "unloaded";
        box.style.cssText = "position: fixed; inset: 0; z-index: 10000; display: grid; place-content: center; gap: 12px; padding: 16px; background: var(--page); color: var(--text); font: 15px/1.4 var(--font); text-align: center";
        words.textContent = "A part of this page did not arrive, so it cannot work: the connection broke, or the server was away for a moment.";
        button.textContent = "Load the page again";
        button.style.cssText = "justify-self: center; padding: 7px 14px; border: 1px solid; border-radius: 4px; background: var(--text); color: var(--page); font: inherit; cursor: pointer";
        button.addEventListener("click", () => location.reload());
        box.append(words, button);
        (document.body ?? document.documentElement).append(box);
        button.focus();
    }
}
