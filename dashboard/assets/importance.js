/* Where is the selected head on the importance curve, and which head is meant by the pointer? Laid over the graph, so
   that moving the line draws nothing anew. The curve's heads are a track: press anywhere in it, and the line follows
   until it is let go. */
(() => {
    const GRAPH = "head-importance-graph";
    const STRIP = 6; // pixels; height of the strip of layers below a sorted curve
    const GRAB = 13;
    const {svg, colour, label, number, gesture} = headscope;
    let latest = null; // what was painted last: {heads, at}
    let held = null; // rank of the head that the line is held at, until the page has followed
    let pressed = false;
    let look = {}; // colours and font: read before anything is changed, or each reading would lay out the page

    /* What the drawn figure says of the heads: the value of each rank, its place in pixels, and the rank at a place. */
    function headsOf(at) {
        const trace = at.gd._fullData?.find(each => each.name === "heads");
        if (!trace || !headscope.facts) {
            return null;
        }
        return trace.type === "heatmap" ? grid(trace, at) : curve(trace, at);
    }

    function curve(trace, at) {
        const ranks = Array.from(trace.customdata), places = [];
        ranks.forEach((rank, place) => { places[rank] = place; });
        const valid = place => Math.min(ranks.length - 1, Math.max(0, place));
        return {
            kind: "curve",
            size: ranks.length,
            inModel: ranks.every((rank, place) => rank === place),
            peaks: at.gd.layout.meta?.peaks ?? [],
            lowMatters: at.gd.layout.meta?.low_matters,
            place: rank => places[rank],
            rankAt: place => ranks[valid(place)],
            under: x => ranks[valid(Math.round(at.toX(x)))],
            value: rank => trace.y[places[rank]],
            x: rank => at.x(places[rank]),
            y: rank => at.y(trace.y[places[rank]]),
        };
    }

    function grid(trace, at) {
        const rows = trace.z.length, columns = trace.z[0].length;
        const cell = (pixel, length, count) => Math.min(count - 1, Math.max(0, Math.floor(pixel / length * count)));
        const layer = rank => Math.floor(rank / rows), head = rank => rank % rows;
        return {
            kind: "grid",
            size: rows * columns,
            width: at.width / columns,
            height: at.height / rows,
            under: (x, y) => cell(x, at.width, columns) * rows + cell(y, at.height, rows),
            value: rank => trace.z[head(rank)][layer(rank)],
            x: rank => layer(rank) * at.width / columns,
            y: rank => head(rank) * at.height / rows,
        };
    }

    const panel = () => document.querySelector(".panel.head-importance");
    const named = rank => label(Math.floor(rank / headscope.facts.heads), rank % headscope.facts.heads);
    const selected = () => held ?? headscope.selection.layer * headscope.facts.heads + headscope.selection.head;

    // --- painting ---

    function paint(over, at) {
        const heads = headsOf(at);
        const names = ["accent", "panel", "text", "faint", "font"];
        look = Object.fromEntries(names.map(name => [name, colour(`--${name}`)]));
        look.layers = heads?.inModel === false ? layerColours() : [];
        latest = heads && {heads, at};
        const rank = heads && selected();
        if (!heads || !(rank < heads.size)) {
            over.replaceChildren();
        } else if (heads.kind === "grid") {
            over.replaceChildren(outline(heads, rank));
        } else {
            const handle = over.querySelector("[role=slider]") ?? slider(); // kept, and with it the focus
            const marks = svg("g", {"aria-hidden": "true"});
            if (handle.parentNode !== over) {
                over.replaceChildren(handle);
            }
            handle.nextSibling?.remove();
            over.append(marks);
            move(handle, heads, rank, at);
            if (!heads.inModel) {
                marks.append(strip(heads, at));
            }
            const taken = [selectedLabel(marks, heads, rank, at)];
            nameThePeaks(marks, heads, rank, at, taken);
            marks.append(line(heads, rank, at));
            if (Number.isFinite(heads.value(rank))) {
                const dot = {cx: heads.x(rank), cy: heads.y(rank), r: 5};
                marks.append(svg("circle", {...dot, fill: look.panel, stroke: look.accent, "stroke-width": 3}));
            }
        }
    }

    function outline(heads, rank) {
        const out = heads.height < 9 ? 2 : 0; // around a low cell, so that its colour is seen
        return svg("rect", {
            x: heads.x(rank) - out, y: heads.y(rank) - out,
            width: heads.width + 2 * out, height: heads.height + 2 * out,
            fill: "none", stroke: look.accent, "stroke-width": 3 - out / 2,
            role: "img", "aria-label": `${named(rank)}, ${number(heads.value(rank))}`,
        });
    }

    function layerColours() {
        const {layers} = headscope.facts;
        return Array.from({length: layers}, (_, layer) => headscope.ramp("--layers", layer / Math.max(1, layers - 1)));
    }

    /* The layer of each head of a sorted curve, as a colour, along the lower edge. */
    function strip(heads, at) {
        const canvas = Object.assign(document.createElement("canvas"), {width: heads.size, height: 1});
        const context = canvas.getContext("2d");
        for (let place = 0; place < heads.size; place++) {
            context.fillStyle = look.layers[Math.floor(heads.rankAt(place) / headscope.facts.heads)];
            context.fillRect(place, 0, 1, 1);
        }
        const [left, right] = [at.x(-0.5), at.x(heads.size - 0.5)];
        return svg("image", {
            x: left, y: at.height - STRIP, width: right - left, height: STRIP, href: canvas.toDataURL(),
            preserveAspectRatio: "none", style: "image-rendering: pixelated",
        });
    }

    const line = (heads, rank, at) => svg("line", {
        x1: heads.x(rank), x2: heads.x(rank), y1: 0, y2: at.height,
        stroke: look.accent, "stroke-width": 2, class: "stem",
    });

    const ruler = document.createElement("canvas").getContext("2d"); // measures without laying out the page

    function widthOf(content, size, weight) {
        ruler.font = `${weight} ${size}px ${look.font}`;
        return ruler.measureText(content).width;
    }

    /* A text that stays legible over the curve. */
    function text(content, x, y, more = {}) {
        return svg("text", {
            x, y, "font-size": 12, fill: look.text, stroke: look.panel, "stroke-width": 3,
            "stroke-linejoin": "round", "paint-order": "stroke", ...more,
        }, content);
    }

    /* Name and value, at the edge that the curve is far from and the side of the line that has room; gives its box. */
    function selectedLabel(marks, heads, rank, at) {
        const foot = heads.lowMatters ? at.height - (heads.inModel ? 4 : 6 + STRIP) : 11;
        const said = `${named(rank)} ${number(heads.value(rank))}`, x = heads.x(rank), width = widthOf(said, 12, 700);
        const left = x + 6 + width > at.width ? x - 6 - width : x + 6;
        marks.append(text(said, left, foot, {fill: look.accent, "font-weight": 700}));
        return {left: left - 2, right: left + width + 2, top: foot - 11, bottom: foot + 4};
    }

    /* Names at the most important heads, the most important first; one that finds no free place is left out. */
    function nameThePeaks(marks, heads, rank, at, taken) {
        const up = heads.lowMatters ? 1 : -1;
        const [left, top] = [heads.x(rank), heads.y(rank)];
        taken.push({left: left - 2, right: left + 2, top: 0, bottom: at.height});
        taken.push({left: left - 8, right: left + 8, top: top - 8, bottom: top + 8});
        for (const peak of heads.peaks) {
            if (peak === rank) {
                continue; // it has its label
            }
            const half = widthOf(named(peak), 11, 400) / 2 + 1, [x, y] = [heads.x(peak), heads.y(peak)];
            const box = spot(x, y, half, 7, up, heads.inModel ? ABOVE_FIRST : RIGHT_FIRST, at, taken);
            if (!box) {
                continue;
            }
            taken.push(box);
            const [middle, centre] = [(box.left + box.right) / 2, (box.top + box.bottom) / 2];
            marks.append(text(named(peak), middle, centre + 4, {"font-size": 11, "text-anchor": "middle"}));
            if (box.far) {
                const lead = {x1: x, y1: y, x2: middle, y2: centre};
                marks.prepend(svg("line", {...lead, stroke: look.faint, "stroke-width": 1}));
            }
        }
    }

    // Where a name may be, in its own sizes: to the right, and away from the curve. A sorted curve is free to its right.
    const ABOVE_FIRST = [[0, 1], [1, 0.5], [-1, 0.5], [1, 0], [-1, 0], [1, 1], [-1, 1]];
    const RIGHT_FIRST = [[1, 0.5], [1, 1], [0, 1], [1, 0]];

    function overlap(one, other) {
        const across = one.left < other.right && other.left < one.right;
        return across && one.top < other.bottom && other.top < one.bottom;
    }

    /* The nearest free box of so much about (x, y), then those further off; undefined if there is none. */
    function spot(x, y, half, tall, up, sides, at, taken) {
        for (const far of [0, 1, 2, 3, 4]) {
            for (const [right, beyond] of sides) {
                const middle = x + right * (half + 6) * (1 + far), centre = y + up * beyond * (tall + 6) * (1 + far);
                const box = {left: middle - half, right: middle + half, top: centre - tall, bottom: centre + tall, far};
                const inside = box.left >= 0 && box.right <= at.width && box.top >= 0 && box.bottom <= at.height;
                if (inside && !taken.some(other => overlap(box, other))) {
                    return box;
                }
            }
        }
    }

    // --- the line as a control ---

    function slider() {
        const handle = svg("rect", {
            role: "slider", tabindex: 0, "aria-label": "Selected head", "aria-orientation": "horizontal",
            class: "importance-line", fill: "transparent",
        });
        handle.addEventListener("keydown", event => {
            const heads = latest?.heads, step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
            const plain = !(event.ctrlKey || event.metaKey || event.altKey);
            if (!heads || !plain) {
                return;
            }
            // In the model's order the arrows move through the heads wherever the focus is.
            const beside = step && !heads.inModel ? heads.place(selected()) + step : undefined;
            const to = {Home: 0, End: heads.size - 1}[event.key] ?? beside;
            if (to !== undefined) {
                event.preventDefault(); // and with it, the page's own keys
                hold(heads.rankAt(to));
                gesture("rank", held);
            }
        });
        return handle;
    }

    function move(handle, heads, rank, at) {
        const attributes = {
            x: heads.x(rank) - GRAB / 2, y: 0, width: GRAB, height: at.height,
            "aria-valuemin": 0, "aria-valuemax": heads.size - 1, "aria-valuenow": heads.place(rank),
            "aria-valuetext": `${named(rank)}, ${number(heads.value(rank))}`,
        };
        for (const [name, value] of Object.entries(attributes)) {
            handle.setAttribute(name, value);
        }
    }

    function hold(rank) {
        if (held !== rank) {
            held = rank;
            overlay.repaint();
        }
    }

    const overlay = headscope.overlay(GRAPH, paint);

    /* The rank under the pointer; null off the plot, unless it is held. */
    function under(event) {
        const box = overlay.svg.getBoundingClientRect();
        const [x, y] = [event.clientX - box.x, event.clientY - box.y];
        const within = x >= 0 && y >= 0 && x <= box.width && y <= box.height;
        return latest && (within || pressed) ? latest.heads.under(x, y) : null;
    }

    document.addEventListener("pointerdown", event => {
        const rank = event.button === 0 && event.target.closest?.(`#${GRAPH}`) ? under(event) : null;
        if (rank === null) {
            return;
        }
        event.preventDefault(); // no drag of Plotly's
        pressed = true;
        const handle = overlay.svg.querySelector("[role=slider]");
        handle ? handle.focus({preventScroll: true}) : document.activeElement?.blur(); // no field keeps the keys
        panel()?.classList.add("held");
        hold(rank);
    });

    addEventListener("pointermove", event => {
        if (pressed) {
            hold(under(event));
        }
    });

    for (const end of ["pointerup", "pointercancel"]) {
        addEventListener(end, () => {
            if (!pressed) {
                return;
            }
            pressed = false;
            panel()?.classList.remove("held");
            const rank = end === "pointerup" ? held : null;
            held = null;
            if (rank !== null && rank !== selected()) {
                held = rank; // until the page has followed
                gesture("rank", rank);
            } else {
                overlay.repaint();
            }
        });
    }

    headscope.onSelection((selection, index, facts) => {
        if (!pressed) {
            held = null;
        }
        panel()?.classList.toggle("grid", selection.curve === "grid");
        overlay.repaint();
        basket(selection);
    });

    // --- the card of the selected head: its place in the basket ---

    const BASKET = "head-card-basket";

    function basket({basket: heads, layer, head}) {
        const button = document.getElementById(BASKET), inside = heads.split(",").includes(`${layer}.${head}`);
        if (button) {
            button.setAttribute("aria-pressed", inside);
            button.classList.toggle("on", inside);
            button.textContent = inside ? "in basket" : "+ basket";
        }
    }

    document.addEventListener("click", event => {
        if (event.target.closest?.(`#${BASKET}`) && headscope.selection) {
            gesture("basket", [headscope.selection.layer, headscope.selection.head]);
        }
    });
})();
