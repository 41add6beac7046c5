/* What does the page do without the server? Theme, pages, address and history. */
window.dash_clientside = window.dash_clientside || {};
(() => {
    const idle = () => window.dash_clientside.no_update;

    // --- pages: one document, and the one that the address names is shown ---
    const PAGES = {"/studies": ["studies", "Studies"], "/jobs": ["jobs", "Jobs"], "/new": ["new", "New study"]};
    const root = document.documentElement;
    const set = (id, data) => window.dash_clientside.set_props(id, {data});
    let workspace = {search: "", title: "Headscope"}; // as it was left
    let visits = 0;

    /* Shows the page that the address names. */
    function show() {
        const [page, title] = PAGES[location.pathname] ?? ["workspace", ""];
        root.dataset.page = page;
        document.title = title ? `${title} · Headscope` : workspace.title;
        for (const link of document.querySelectorAll(".pages a")) {
            link.toggleAttribute("aria-current", link.pathname === location.pathname);
        }
    }

    /* The same after a link, or back and forward: what the page shows follows the address. */
    function arrive() {
        show();
        dispatchEvent(new Event("headscope-page"));
        if (root.dataset.page === "workspace") {
            set("url", asked());
        } else if (root.dataset.page === "new") {
            set("new-study-opened", {visit: ++visits, shown: Boolean(document.getElementById("new-study-form"))});
        } else if (root.dataset.page === "studies") {
            set("studies-opened", ++visits);
        }
    }

    /* What the address asks of the workspace; a theme that it names is this page's from now on. */
    function asked() {
        const theme = new URLSearchParams(location.search).get("theme");
        if (["light", "dark"].includes(theme) && theme !== root.dataset.bsTheme) {
            root.dataset.bsTheme = theme;
            set("theme", theme);
        }
        return {search: location.search, theme: root.dataset.bsTheme};
    }

    function go(href) {
        history.pushState(null, "", href);
        arrive();
    }

    show(); // before anything is painted

    window.dash_clientside.page = {
        /* The theme's name; a click on the switch takes the other one and keeps it in this browser. */
        theme(clicks) {
            if (clicks) {
                root.dataset.bsTheme = root.dataset.bsTheme === "dark" ? "light" : "dark";
                localStorage.setItem("headscope-theme", root.dataset.bsTheme);
            }
            return root.dataset.bsTheme;
        },

        /* Called once, when the page is there: what the address asks of the workspace, if that is what it names. */
        search() {
            headscope.watch();
            arrive();
            return root.dataset.page === "workspace" ? asked() : idle();
        },

        /* A gesture adds to the history; what was found from the address only completes it. */
        address(to) {
            if (!to) {
                return;
            }
            workspace = to;
            if (root.dataset.page !== "workspace") {
                if (!to.replace) { // a study was picked on another page
                    go("/" + to.search);
                }
                return;
            }
            document.title = to.title;
            if (to.search !== location.search) {
                history[to.replace ? "replaceState" : "pushState"](null, "", location.pathname + to.search);
            }
        },

        go,
    };

    addEventListener("popstate", arrive);

    // Links between pages open no new document; the workspace is as it was left.
    document.addEventListener("click", event => {
        const link = event.target.closest?.("a[href]");
        const plain = event.button === 0 && !(event.ctrlKey || event.metaKey || event.shiftKey || event.altKey);
        if (!link || !plain || link.target || link.origin !== location.origin || !(link.pathname === "/" || link.pathname in PAGES)) {
            return;
        }
        event.preventDefault();
        go(link.pathname === "/" && !link.search ? "/" + workspace.search : link.pathname + link.search);
    });

    // A picked study keeps the focus, and with it the arrow keys.
    addEventListener("change", event => event.target.tagName === "SELECT" && event.target.blur());
})();
