/* What lies under and over the points of the pattern map? Pictures of the density under them, the marked heads over
   them; and what the pointer says of a head, whichever of them it is on. */
window.dash_clientside = window.dash_clientside || {};
(() => {
    const GRAPH = "pattern-map-graph", DENSITY = "pattern-map-density", LEGEND = "pattern-map-legend", TOOLTIP = "pattern-map-tooltip";
    const SOON = 90; // ms that a zoom must rest before its density is asked for
    const KINDS = {f4: Float32Array, i4: Int32Array, i1: Int8Array, u1: Uint8Array};
    const show = props => window.dash_clientside.set_props(TOOLTIP, props);
    const indexOf = point => point.pointIndex ?? point.pointNumber;

    let told = null; // what pattern_map.PatternMap.told gives, its arrays unpacked
    let marks = null; // what pattern_map.draw_marks gives, likewise
    let at = null; // where the graph has its data
    let part = null; // what of the legend is shown alone, as "layer=3": that under the pointer, or else
    let pinned = null; // that which was clicked

    /* The same with typed arrays for what graphs.sent packed. */
    function unpacked(data) {
        const array = ({dtype, bdata}) => new KINDS[dtype](Uint8Array.from(atob(bdata), byte => byte.charCodeAt(0)).buffer);
        return data && Object.fromEntries(Object.entries(data).map(([name, value]) => [name, value?.bdata === undefined ? value : array(value)]));
    }

    // --- density: a picture of what is looked at, moved with the zoom until the next is there ---

    const pictures = {}; // by role: {image, window, url}
    let asking;

    function edges() {
        const round = value => Number(value.toFixed(6));
        return {x0: round(at.toX(0)), x1: round(at.toX(at.width)), y0: round(at.toY(at.height)), y1: round(at.toY(0))};
    }

    /* What is asked of the server for each role, the lowest first; null if nothing. */
    const roles = ({map, theme, images} = told?.asked ?? {}) => ({
        outline: told?.points || told?.part ? {map, theme, outline: 1} : null,
        density: told && !told.points ? {map, theme, images} : null,
        part: told && part ? {...told.asked, ...Object.fromEntries([part.split("=")])} : null,
    });

    function ask() {
        const frame = document.getElementById(DENSITY);
        if (!frame || !at || !(at.width > 0)) {
            return;
        }
        const window_ = edges();
        const sharp = Math.min(window.devicePixelRatio, 2);
        const size = {width: Math.round(at.width * sharp), height: Math.round(at.height * sharp)};
        for (const [role, asked] of Object.entries(roles())) {
            const last = pictures[role];
            if (!asked) {
                last?.image.remove();
                delete pictures[role];
                continue;
            }
            const url = `${told.pictures}/density.png?${new URLSearchParams({...asked, ...window_, ...size})}`;
            if (last?.url === url) {
                continue;
            }
            const image = new Image();
            Object.assign(image, {src: url, alt: "", className: role});
            const next = pictures[role] = {image: last?.image ?? image, window: last?.window ?? window_, url};
            // What cannot be painted, damaged data, is told in the panel's line; then the last picture stays.
            image.decode().then(() => {
                if (pictures[role] !== next) {
                    return;
                }
                last?.image.remove();
                Object.assign(next, {image, window: window_});
                frame.append(image);
                place();
            }, () => pictures[role] === next && delete next.url);
        }
    }

    function askSoon() {
        clearTimeout(asking);
        asking = setTimeout(ask, SOON);
    }

    /* Each picture where its window is now. */
    function place() {
        for (const {image, window: {x0, x1, y0, y1}} of Object.values(pictures)) {
            const [left, top] = [at.x(x0), at.y(y1)];
            Object.assign(image.style, {left: `${left}px`, top: `${top}px`, width: `${at.x(x1) - left}px`, height: `${at.y(y0) - top}px`});
        }
    }

    // --- marks: the selected image's heads, or the selected head on the images ---

    function paint(svg, here) {
        at = here;
        place();
        askSoon();
        svg.replaceChildren(...(marks ? circles() : []));
    }

    function circles() {
        const {layer, head} = headscope.selection, {layers, heads} = headscope.facts;
        const each = layers * heads, selected = layer * heads + head, whole = marks.image !== null;
        const radius = whole ? (each > 200 ? 3.5 : 4.5) : 3;
        const made = [];
        let ring = null;
        marks.places.forEach((place, index) => {
            const [x, y] = [marks.x[index], marks.y[index]];
            if (!Number.isFinite(x)) {
                return;
            }
            const rank = place % each, away = part && !isIn(rank, marks.names?.[index]);
            const where = {cx: at.x(x).toFixed(1), cy: at.y(y).toFixed(1)};
            const kind = `mark${whole ? "" : " head"}${away ? " away" : ""}`;
            made.push(headscope.svg("circle", {...where, r: radius, class: kind, "data-mark": index, ...(whole && {fill: marks.colours[marks.codes[index]]})}));
            if (whole && rank === selected) {
                ring = headscope.svg("circle", {...where, r: radius + 4.5, class: "ring"});
            }
        });
        return ring ? [...made, ring] : made;
    }

    /* Whether a head is of the part that is shown alone. */
    function isIn(rank, name) {
        const [kind, value] = part.split("=");
        return Number(value) === (kind === "layer" ? Math.floor(rank / headscope.facts.heads) : name);
    }

    const overlay = headscope.overlay(GRAPH, paint);
    const markOf = event => event.target.dataset?.mark;

    overlay.svg.addEventListener("pointerover", event => {
        if (markOf(event) !== undefined) {
            const circle = event.target.getBoundingClientRect();
            const frame = at.gd.getBoundingClientRect();
            const box = {x0: circle.left - frame.left, x1: circle.right - frame.left, y0: circle.top - frame.top, y1: circle.bottom - frame.top};
            tell(marks, Number(markOf(event)), box, "mark");
        }
    });
    overlay.svg.addEventListener("pointerout", () => untell("mark"));
    overlay.svg.addEventListener("click", event => {
        if (markOf(event) !== undefined) {
            headscope.gesture("point", marks.places[markOf(event)]);
        }
    });
    // The wheel zooms the map, wherever the pointer is on it.
    overlay.svg.addEventListener("wheel", event => {
        event.preventDefault();
        at.gd.querySelector(".nsewdrag")?.dispatchEvent(new WheelEvent("wheel", event));
    }, {passive: false});

    // --- the tooltip of a head on an image ---

    let over = null; // "points" or "mark": what the tooltip is of
    let asked = 0;

    async function tell(heads, index, bbox, source) {
        over = source;
        const now = ++asked, {layers, heads: perLayer} = headscope.facts;
        const place = heads.places[index], image = Math.floor(place / (layers * perLayer)), rank = place % (layers * perLayer);
        const name = headscope.label(Math.floor(rank / perLayer), rank % perLayer);
        const children = await headscope.caption(image, [
            ["name", heads.names ? `${name} · ${told.words.at(heads.names[index])}` : name], // -1, mixed, is the last
            ["value", heads.values && `${told.axis} ${headscope.number(heads.values[index])}`],
        ]);
        if (now !== asked || !told) {
            return;
        }
        show({show: true, bbox, children, direction: bbox.x0 > at.width / 2 ? "left" : "right"});
    }

    function untell(source) {
        if (over === source) {
            over = null;
            asked += 1;
            show({show: false});
        }
    }

    // --- the legend shows where the heads of an entry are, while the pointer is on it or since it was clicked ---

    function showPart(next) {
        part = next;
        document.querySelector(".pattern-map .map").classList.toggle("apart", Boolean(part));
        for (const button of document.querySelectorAll(`#${LEGEND} [data-part]`)) {
            button.setAttribute("aria-pressed", button.dataset.part === pinned);
        }
        overlay.repaint();
    }

    const partOf = event => event.target.closest?.(`#${LEGEND} [data-part]`)?.dataset.part;
    for (const event of ["pointerover", "focusin"]) {
        addEventListener(event, each => partOf(each) && showPart(partOf(each)));
    }
    for (const event of ["pointerout", "focusout"]) {
        addEventListener(event, each => partOf(each) && showPart(pinned));
    }
    addEventListener("click", event => {
        if (partOf(event)) {
            pinned = partOf(event) === pinned ? null : partOf(event);
            showPart(pinned);
        }
    });

    /* Of too many heads the density is drawn, and the buttons say so, over what headscope.js has them say. */
    function sayWhy() {
        for (const button of headscope.selection ? document.querySelectorAll(".pattern-map [data-gesture=choice]") : []) {
            const [field, value] = JSON.parse(button.dataset.value);
            if (field !== "map_as") {
                continue;
            }
            const picked = value === (told?.why ? "density" : headscope.selection.map_as);
            const why = headscope.facts.lacks.map_as?.[value] ?? (picked ? "" : told?.why ?? "");
            button.classList.toggle("on", picked);
            button.setAttribute("aria-pressed", picked);
            button.disabled = Boolean(why);
            button.title = why;
        }
    }

    headscope.onSelection(() => { // after it has pressed the buttons
        sayWhy();
        overlay.repaint();
    });

    headscope.onTold("pattern-map-marks", data => {
        marks = unpacked(data);
        overlay.repaint();
    });

    window.dash_clientside.patterns = {
        /* The figure, as near as the last was looked at, if it is of the same map. */
        drawn(data) {
            if (!data) {
                return window.dash_clientside.no_update;
            }
            const {figure, ...rest} = data, {layout} = figure, before = at?.gd._fullLayout;
            told = rest.asked ? {...rest, points: unpacked(rest.points)} : null; // without: there is nothing to draw
            pinned = null;
            showPart(null);
            sayWhy();
            if (told && before?.uirevision === layout.uirevision) {
                layout.xaxis.range = [...before.xaxis.range];
                layout.yaxis.range = [...before.yaxis.range];
            }
            return figure;
        },
        hovered(hover) {
            const point = hover?.points?.[0];
            if (point && told?.points) {
                tell(told.points, indexOf(point), point.bbox, "points");
            } else {
                untell("points");
            }
        },
        clicked(click) {
            const point = click?.points?.[0];
            if (point && told?.points) {
                headscope.gesture("point", told.points.places[indexOf(point)]);
            }
        },
    };
})();
