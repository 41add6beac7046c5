/* What does the page do without the server? Theme, address and history, thumbnails under the pointer. */
window.dash_clientside = window.dash_clientside || {};
(() => {
    const idle = () => window.dash_clientside.no_update;
    const indexOf = point => point.pointIndex ?? point.pointNumber;

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
            const root = document.documentElement.dataset;
            if (clicks) {
                root.bsTheme = root.bsTheme === "dark" ? "light" : "dark";
                localStorage.setItem("headscope-theme", root.bsTheme);
            }
            return root.bsTheme;
        },

        search: () => ({search: location.search}),

        /* A gesture adds to the history; what was found from the address only completes it. */
        address(to) {
            if (!to) {
                return;
            }
            document.title = to.title;
            if (to.search !== location.search) {
                history[to.replace ? "replaceState" : "pushState"](null, "", location.pathname + to.search);
            }
        },

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

    addEventListener("popstate", () => window.dash_clientside.set_props("url", {data: {search: location.search}}));

    // A picked study keeps the focus, and with it the arrow keys.
    addEventListener("change", event => event.target.tagName === "SELECT" && event.target.blur());
})();
