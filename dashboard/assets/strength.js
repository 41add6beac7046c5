/* Attention strength: what marks the selection on its three graphs, the rings that explain a hop, and the brush that
   makes an image set. The graphs are drawn by views/attention_strength.py; nothing here draws them anew. */
window.dash_clientside = window.dash_clientside || {};
(() => {
    const [HEADS, HOPS, IMAGES] = ["strength-heads-graph", "strength-hops-graph", "strength-images-graph"];
    const GRIP = 7; // px to either side of a handle
    const CLICK = 3; // px; less is no drag

    const byId = id => document.getElementById(id);
    const {svg: made} = headscope;
    const trace = (gd, index) => gd._fullData?.[index];
    const between = (low, value, high) => Math.min(high, Math.max(low, value));

    /* Says what is under the pointer above the graph, in place of what the graph is; nothing puts that back. */
    function say(graph, text) {
        const readout = byId(graph)?.closest(".strength > div").querySelector(".readout");
        if (readout) {
            readout.hidden = !text;
            readout.textContent = text ?? "";
        }
    }

    /* --- every head: the selected one has a ring --- */

    const ring = headscope.overlay(HEADS, (svg, at) => {
        svg.replaceChildren();
        const points = trace(at.gd, 0);
        if (!points || !headscope.selection) {
            return;
        }
        const {layer, head} = headscope.selection;
        const rank = layer * headscope.facts.heads + head;
        if (Number.isFinite(points.y[rank])) {
            const place = {cx: at.x(points.x[rank]), cy: at.y(points.y[rank])};
            svg.style.overflow = "visible"; // a head at 1 lies on the edge
            svg.append(made("circle", {...place, r: 7, fill: "none", stroke: "var(--accent)", "stroke-width": 2.5}));
        }
    });

    /* --- the selected head by hop: bars, and rings about a patch --- */

    let hop = null; // under the pointer or the keyboard

    const bars = headscope.overlay(HOPS, (svg, at) => {
        const drawn = trace(at.gd, 0);
        svg.replaceChildren();
        if (drawn && hop !== null && hop < drawn.x.length) {
            const [left, right] = [at.x(hop - 0.5), at.x(hop + 0.5)];
            const column = {x: left, y: 0, width: right - left, height: at.height};
            svg.append(made("rect", {...column, fill: "var(--text)", opacity: 0.1}));
        }
        paintRings(drawn);
        say(HOPS, hop === null ? "" : drawn?.text[hop]);
    });

    function showHop(number) {
        hop = number;
        bars.repaint();
    }

    /* A patch in the middle of a shorter side, from where there is a patch at each hop. */
    function middle([rows, columns]) {
        return columns >= rows ? [Math.floor(rows / 2), 0] : [0, Math.floor(columns / 2)];
    }

    /* The part of the grid within `radius` of the patch, as a path. */
    function square([row, column], radius, [rows, columns]) {
        if (radius < 0) {
            return "";
        }
        const [top, bottom] = [Math.max(0, row - radius), Math.min(rows, row + radius + 1)];
        const [left, right] = [Math.max(0, column - radius), Math.min(columns, column + radius + 1)];
        return `M${left} ${top}H${right}V${bottom}H${left}Z`;
    }

    let painted = null; // what the rings were last painted from

    function paintRings(drawn) {
        const holder = byId("strength-rings");
        if (!holder || !headscope.facts) {
            return;
        }
        const strength = drawn ? Array.from(drawn.y) : [];
        holder.hidden = !strength.length;
        if (!strength.length) {
            return;
        }
        if (!holder.firstChild) {
            followRings(holder);
        }
        const {grid} = headscope.facts;
        const now = JSON.stringify([strength, grid, headscope.selection.theme]);
        if (now !== painted) {
            painted = now;
            const most = Math.max(...strength.filter(Number.isFinite), 0) || 1;
            const centre = middle(grid);
            const rings = strength.map((value, at) =>
                made("path", {
                    d: square(centre, at, grid) + square(centre, at - 1, grid),
                    "fill-rule": "evenodd",
                    fill: Number.isFinite(value) ? headscope.ramp("--patch", value / most) : "var(--unknown)",
                    "data-hop": at,
                }),
            );
            const lines = [
                ...Array.from({length: grid[0] + 1}, (_, row) => `M0 ${row}H${grid[1]}`),
                ...Array.from({length: grid[1] + 1}, (_, column) => `M${column} 0V${grid[0]}`),
            ];
            const viewBox = `-0.1 -0.1 ${grid[1] + 0.2} ${grid[0] + 0.2}`;
            const picture = made("svg", {viewBox, preserveAspectRatio: "xMidYMin"});
            picture.append(
                ...rings,
                made("path", {class: "patches", d: lines.join("")}),
                made("path", {class: "self", d: square(centre, 0, grid)}),
                made("path", {class: "over"}),
            );
            holder.replaceChildren(picture);
            holder.setAttribute("aria-valuemax", strength.length - 1);
            holder.title = "Rings about one patch: its neighbours at each hop, coloured by strength";
        }
        const centre = middle(grid);
        const lit = hop !== null && hop < strength.length;
        const over = lit ? square(centre, hop, grid) + square(centre, hop - 1, grid) : "";
        holder.querySelector(".over").setAttribute("d", over);
        holder.setAttribute("aria-valuenow", hop ?? 0);
        holder.setAttribute("aria-valuetext", drawn.text[hop ?? 0]);
    }

    function followRings(holder) {
        const hopAt = event => {
            const number = event.target.closest?.("[data-hop]")?.dataset.hop;
            return number === undefined ? null : Number(number);
        };
        holder.addEventListener("pointermove", event => hopAt(event) !== hop && showHop(hopAt(event)));
        holder.addEventListener("pointerleave", () => showHop(null));
        holder.addEventListener("focus", () => showHop(hop ?? 0));
        holder.addEventListener("blur", () => showHop(null));
        holder.addEventListener("keydown", event => {
            const last = Number(holder.getAttribute("aria-valuemax"));
            const now = hop ?? 0;
            const [more, less] = [now + 1, now - 1];
            const moves = {ArrowRight: more, ArrowUp: more, ArrowLeft: less, ArrowDown: less, Home: 0, End: last};
            const to = moves[event.key];
            if (to !== undefined) {
                event.preventDefault();
                showHop(between(0, to, last));
            }
        });
    }

    /* --- the selected head over images: a line at the selected one, and a brush --- */

    let entropy = null; // of the selected image
    let brushed = null; // [low, high], as the image set has it
    let drag = null; // {part, from, range, moved}: of a brush, or of a part of it, that is under way

    const range = () => (drag?.moved ? drag.range : brushed);

    const images = headscope.overlay(IMAGES, (svg, at) => {
        svg.replaceChildren();
        if (!trace(at.gd, 0)) {
            return;
        }
        const upright = (value, look) =>
            made("line", {x1: at.x(value), x2: at.x(value), y1: 0, y2: at.height, ...look});
        const now = range();
        if (now) {
            const [low, high] = now.map(at.x);
            svg.append(
                made("rect", {class: "brushed", x: low, y: 0, width: Math.max(0, high - low), height: at.height}),
                ...now.map(end => upright(end, {class: "end"})),
                ...now.map(end => {
                    const box = {x: at.x(end) - 2.5, y: at.height / 2 - 8, width: 5, height: 16, rx: 2};
                    return made("rect", {class: "handle", ...box});
                }),
            );
        }
        if (entropy !== null) {
            svg.append(upright(entropy, {stroke: "var(--accent)", "stroke-width": 2}));
        }
        const area = made("rect", {class: "area", width: at.width, height: at.height, "pointer-events": "all"});
        area.onpointermove = event => follow(area, at, event);
        area.onpointerleave = () => drag || say(IMAGES, "");
        area.onpointerdown = event => event.button === 0 && begin(area, at, event);
        svg.append(area);
    });

    /* What of the brush is under the pointer. */
    function partAt(pixel, at) {
        if (!brushed) {
            return "new";
        }
        const [low, high] = brushed.map(at.x);
        const near = Math.abs(pixel - low) <= Math.abs(pixel - high) ? ["low", low] : ["high", high];
        if (Math.abs(pixel - near[1]) <= GRIP) {
            return near[0];
        }
        return pixel > low && pixel < high ? "both" : "new";
    }

    const pixelOf = (event, box) => event.clientX - box.left;

    function follow(area, at, event) {
        if (!drag) {
            const pixel = pixelOf(event, area.getBoundingClientRect());
            area.dataset.part = partAt(pixel, at);
            say(IMAGES, binAt(at.toX(pixel), at.gd._fullData.at(-1)));
        }
    }

    /* What the bin with a value says. */
    function binAt(value, area) {
        const after = area.x.findIndex((edge, place) => place > 0 && edge > value);
        return area.text[after > 1 ? after - 1 : 0];
    }

    /* The range when a part of it that was `before` is dragged from one value to another. */
    function dragged(part, before, from, to) {
        if (part === "new") {
            return [from, to];
        }
        const by = to - from;
        return [before[0] + (part === "high" ? 0 : by), before[1] + (part === "low" ? 0 : by)];
    }

    function begin(area, at, event) {
        const box = area.getBoundingClientRect();
        const first = pixelOf(event, box);
        const before = brushed;
        drag = {part: partAt(first, at), range: before, moved: false};
        event.preventDefault();
        const heard = new AbortController();
        const listen = (kind, listener) => addEventListener(kind, listener, {signal: heard.signal, capture: true});
        const over = () => {
            heard.abort();
            drag = null;
            say(IMAGES, "");
            images.repaint();
        };
        listen("pointermove", moved => {
            const pixel = pixelOf(moved, box);
            drag.moved ||= Math.abs(pixel - first) >= CLICK;
            const to = at.toX(drag.part === "new" ? between(0, pixel, at.width) : pixel);
            drag.range = dragged(drag.part, before, at.toX(first), to).sort((a, b) => a - b);
            say(IMAGES, drag.range.map(headscope.number).join("–"));
            images.repaint();
        });
        listen("pointerup", () => {
            if (drag.moved) {
                ask(drag.range);
            } else if (brushed) {
                ask(null);
            }
            over();
        });
        listen("pointercancel", over);
        listen("keydown", pressed => {
            if (pressed.key === "Escape") {
                pressed.preventDefault();
                pressed.stopPropagation();
                over();
            }
        });
    }

    /* Makes the image set of a range; null is of all entropies. It is shown before the answer is there. */
    function ask(wanted) {
        brushed = wanted;
        headscope.gesture("brush", wanted);
        showRange();
    }

    /* The same with the keyboard: two numbers. */
    function showRange() {
        const holder = byId("strength-range");
        if (!holder) {
            return;
        }
        if (!holder.children.length) {
            const element = (tag, given) => Object.assign(document.createElement(tag), given);
            const field = label => element("input", {type: "number", min: 0, max: 1, step: "any", ariaLabel: label});
            const [low, high] = [field("Lowest entropy of the image set"), field("Highest entropy of the image set")];
            const clear = element("button", {textContent: "✕", title: "All entropies", ariaLabel: "All entropies"});
            for (const input of [low, high]) {
                input.addEventListener("change", () => {
                    const span = spanShown();
                    const ends = [low, high].map((each, end) => (each.value === "" ? span[end] : Number(each.value)));
                    ask(low.value === "" && high.value === "" ? null : ends.sort((a, b) => a - b));
                });
            }
            clear.onclick = () => ask(null);
            holder.replaceChildren(low, " to ", high, clear);
        }
        const [low, high] = holder.querySelectorAll("input");
        [low.value, high.value] = brushed ? brushed.map(end => String(Number(end.toPrecision(4)))) : ["", ""];
        [low.placeholder, high.placeholder] = spanShown().map(end => headscope.number(end));
        holder.classList.toggle("on", Boolean(brushed));
    }

    /* What the graph shows, within what an entropy can be. */
    function spanShown() {
        const shown = document.querySelector(`#${IMAGES} .js-plotly-plot`)?._fullLayout?.xaxis?.range ?? [0, 1];
        return shown.map(end => between(0, end, 1));
    }

    headscope.onSelection(() => ring.repaint());

    headscope.onTold("strength-entropy", value => {
        entropy = value ?? null;
        images.repaint();
    });

    headscope.onTold("strength-brush", value => {
        brushed = value ?? null;
        showRange();
        images.repaint();
    });

    window.dash_clientside.strength = {
        pick(clicked) {
            const point = clicked?.points?.[0];
            if (point) {
                const {heads} = headscope.facts;
                headscope.gesture("head", [Math.floor(point.pointNumber / heads), point.pointNumber % heads]);
            }
        },

        hop(hovered) {
            showHop(hovered?.points?.[0]?.pointNumber ?? null);
        },
    };
})();
