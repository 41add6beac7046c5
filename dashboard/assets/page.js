/* What does the page do without the server? Theme, pages, address and history, thumbnails under the pointer. */
window.dash_clientside = window.dash_clientside || {};
(() => {
    const idle = () => window.dash_clientside.no_update;
    const indexOf = point => point.pointIndex ?? point.pointNumber;

    // --- pages: one document, and the one that the address names is shown ---
    const PAGES = {"/jobs": ["jobs", "Jobs"], "/new": ["new", "New study"]};
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
            set("url", {search: location.search});
        } else if (root.dataset.page === "new") {
            set("new-study-opened", ++visits);
        }
    }

    function go(href) {
        history.pushState(null, "", href);
        arrive();
    }

    show(); // before anything is painted

    /* A tooltip's three properties: the picture of an image, lines of [class, text], and what is known of the image. */
    async function tooltip(point, pictures, index, first = []) {
        const answer = await fetch(`${pictures}/image/${index}.json`);
        const said = answer.ok ? await answer.json() : {id: await answer.text()};
        const part = (type, props) => ({type, namespace: "dash_html_components", props});
        const verdict = !said.true ? "" : said.true === said.predicted ? "✓ " : "✕ ";
        const predicted = said.predicted && `${verdict}predicted ${said.predicted}, ${said.probability}`;
        const lines = [...first, ["id", said.id], ["true", said.true], ["predicted", predicted]]
            .filter(([, text]) => text)
            .map(([kind, text]) => part("Div", {className: kind, children: text}));
        return [true, point.bbox, [part("Img", {src: `${pictures}/thumbnail/${index}.webp`, alt: ""}), part("Div", {children: lines})]];
    }

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
            arrive();
            return root.dataset.page === "workspace" ? {search: location.search} : idle();
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

        /* Tooltip of the image under the pointer: whether it shows, where, and what. */
        thumbnail(hover, pictures) {
            const point = hover && hover.points && hover.points[0];
            return point && pictures ? tooltip(point, pictures, indexOf(point)) : [false, idle(), idle()];
        },

        /* What is looked at after a zoom or a move: x0, x1, y0, y1; null is all of it. */
        window(moved) {
            const edges = ["x", "y"].flatMap(axis => [0, 1].map(end => moved?.[`${axis}axis.range[${end}]`]));
            return edges.every(Number.isFinite) ? edges : moved?.["xaxis.autorange"] ? null : idle();
        },

        /* Tooltip of the head under the pointer, on a map of heads. `told` is what pattern_map.told gives. */
        head(hover, told) {
            const point = hover && hover.points && hover.points[0];
            if (!point || !told) {
                return [false, idle(), idle()];
            }
            const index = indexOf(point), heads = told.layers * told.heads, rank = index % heads;
            const image = point.curveNumber === told.own ? told.image : Math.floor(index / heads);
            const names = told.names[point.curveNumber];
            const pattern = names ? " · " + told.words.at(atob(names).charCodeAt(index) << 24 >> 24) : ""; // -1 is the last
            return tooltip(point, told.pictures, image, [["name", `L${Math.floor(rank / told.heads)}·H${rank % told.heads}${pattern}`]]);
        },
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
