/* Which image is under the pointer on the overview, and what lies over its points? The ring of the selected image,
   pictures where there is room for them, a lasso while it is drawn. The points are Plotly's; a selection leaves them. */
window.dash_clientside = window.dash_clientside || {};
(() => {
    const GRAPH = "image-overview-graph";
    const REACH = 10; // px around a point in which it is meant
    const STILL = 4; // px that a hand moves in a click
    const TWICE = 350; // ms between the clicks of a double click
    const FEW = 60; // images in the window, so few that pictures are shown
    const MORE = 80; // so many that they are hidden again, so that nothing flickers in between
    const ROOM = 0.5; // of those images, that must have room
    const SIDES = [44, 36, 28]; // px of a picture, as room allows
    const CORNERS = 200; // of a lasso, at most
    const {svg: part, colour} = window.headscope;

    let at = null; // the plot area, as headscope.overlay tells it
    let points = null; // places and looks by image, of the figure that is drawn
    let marks = null; // what the server says beside the figure: image_overview.draw_legend
    let shown = new Map(); // by image, of its picture: {x, y, element}
    let side = 0; // px of the pictures
    let zoomed = 0; // what a px was in the layout when they were painted
    let hovered = null; // image under the pointer
    let lasso = null; // while it is drawn: px, [x, y] each
    let armed = false; // whether a drag draws a lasso
    let pressed = null; // where the pointer went down: {x, y}
    let last = {image: null, time: -Infinity, released: false}; // the click before

    const byId = id => document.getElementById(id);
    const bytes = sent => Uint8Array.from(atob(sent.bdata), letter => letter.charCodeAt(0));

    /* --- the points, as Plotly has drawn them --- */

    function pointsOf(traces) {
        const images = Math.max(0, ...traces.map(trace => trace.customdata?.at(-1) + 1 || 0)); // they ascend
        const found = {traces, first: traces[0].x, images, x: new Float32Array(images).fill(NaN), y: new Float32Array(images), trace: new Uint8Array(images), place: new Int32Array(images)};
        traces.forEach((trace, number) => trace.customdata?.forEach((image, place) => {
            found.x[image] = trace.x[place];
            found.y[image] = trace.y[place];
            found.trace[image] = number;
            found.place[image] = place;
        }));
        return found;
    }

    const traceOf = image => points.traces[points.trace[image]];
    const isInside = image => traceOf(image).name !== "outside";
    const px = image => at.x(points.x[image]);
    const py = image => at.y(points.y[image]);
    const hasPlace = image => image !== null && image < points.images && Number.isFinite(points.x[image]);

    function colourOf(image) {
        const {color, colorscale, cmin, cmax} = traceOf(image).marker;
        if (typeof color === "string") {
            return color;
        }
        const share = (color[points.place[image]] - cmin) / (cmax - cmin);
        const above = colorscale.findIndex(([from]) => from > share);
        const [low, high] = above < 0 ? [colorscale.at(-1), colorscale.at(-1)] : [colorscale[above - 1], colorscale[above]];
        const weight = high[0] > low[0] ? (share - low[0]) / (high[0] - low[0]) : 0;
        const parts = name => [1, 3, 5].map(start => parseInt(name.slice(start, start + 2), 16));
        const [from, to] = [parts(low[1]), parts(high[1])];
        return `rgb(${from.map((value, index) => Math.round(value + (to[index] - value) * weight)).join(", ")})`;
    }

    const sizeOf = image => traceOf(image).marker.size;

    /* Images of the set in the window and a margin around it; null if more than `most` of them are in the window. */
    function inWindow(margin, most) {
        const found = [];
        let within = 0;
        const [x0, x1] = [at.toX(-margin), at.toX(at.width + margin)];
        const [y0, y1] = [at.toY(at.height + margin), at.toY(-margin)];
        const {x, y, images} = points;
        for (let image = 0; image < images; image++) {
            if (x[image] >= x0 && x[image] <= x1 && y[image] >= y0 && y[image] <= y1 && isInside(image)) {
                const [left, top] = [px(image), py(image)];
                within += left >= 0 && top >= 0 && left <= at.width && top <= at.height;
                found.push(image);
                if (within > most) {
                    return null;
                }
            }
        }
        return found;
    }

    /* The image that a place of the plot area means, or null. Pictures are met before points. */
    function imageAt(x, y) {
        if (!points || !at) {
            return null;
        }
        let best = null, nearest = shown.size ? (REACH / 2) ** 2 : REACH ** 2;
        const meets = (image, distance) => {
            if (distance < nearest) {
                [best, nearest] = [image, distance];
            }
        };
        const [cx, cy] = [at.toX(x), at.toY(y)];
        const [kx, ky] = [at.x(1) - at.x(0), at.y(1) - at.y(0)]; // the axes are linear
        for (const name of ["inside", "outside"]) {
            for (const trace of points.traces) {
                if ((trace.name === "outside") === (name === "outside")) {
                    trace.customdata?.forEach((image, place) => {
                        meets(image, ((trace.x[place] - cx) * kx) ** 2 + ((trace.y[place] - cy) * ky) ** 2);
                    });
                }
            }
            if (best !== null) {
                return best;
            }
            for (const [image, picture] of shown) {
                if (Math.max(Math.abs(picture.x - x), Math.abs(picture.y - y)) <= side / 2) {
                    return image;
                }
            }
        }
        return null;
    }

    /* --- what lies over them --- */

    const layers = {
        same: part("path", {fill: "none", "stroke-linecap": "round"}),
        pictures: part("g"),
        covered: part("g"),
        hovered: part("g"),
        selected: part("g"),
        lasso: part("path", {"stroke-dasharray": "4 3"}),
    };

    const overlay = window.headscope.overlay(GRAPH, (svg, now) => {
        const traces = now.gd._fullData.filter(trace => trace.type === "scattergl");
        [at, points] = [now, !traces.length ? null : points?.first === traces[0].x ? {...points, traces} : pointsOf(traces)];
        if (layers.same.parentNode !== svg) {
            svg.append(...Object.values(layers));
        }
        svg.toggleAttribute("hidden", !points);
        if (points) {
            paintSameClass();
            paintPictures();
            paintRing("selected", window.headscope.index, colour("--accent"), 3);
            paintRing("hovered", hovered === window.headscope.index ? null : hovered, colour("--text"), 1.5);
        }
        paintLasso();
    });

    /* Points of the selected image's class, where Plotly has them in grey: one path of dots. */
    function paintSameClass() {
        const dots = marks?.same?.places.filter(hasPlace).filter(isInside) ?? [];
        layers.same.setAttribute("d", dots.map(image => `M${px(image).toFixed(1)} ${py(image).toFixed(1)}h0`).join(""));
        if (dots.length) {
            layers.same.setAttribute("stroke", marks.same.colour);
            layers.same.setAttribute("stroke-width", sizeOf(dots[0]) + 1);
        }
    }

    /* Rings are round about a point, square about a picture. */
    function paintRing(name, image, stroke, width) {
        const ring = layers[name];
        ring.replaceChildren();
        if (!hasPlace(image)) {
            return;
        }
        const half = shown.has(image) ? side / 2 + 1 : sizeOf(image) / 2 + 4;
        const [x, y] = [px(image), py(image)];
        const shape = shown.has(image) ? {x: x - half, y: y - half, width: 2 * half, height: 2 * half, rx: 3} : {cx: x, cy: y, r: half};
        const draw = (colour_, width_) => part(shown.has(image) ? "rect" : "circle", {...shape, fill: "none", stroke: colour_, "stroke-width": width_});
        ring.append(draw(colour("--panel"), width + 2), draw(stroke, width)); // the light rim keeps it apart from its neighbours
    }

    /* Pictures of the images in the window, if they are few and most of them have room. */
    function paintPictures() {
        const near = inWindow(SIDES[0], shown.size ? MORE : FEW) ?? [];
        const scale = at.toX(1) - at.toX(0);
        const moved = shown.size && Math.abs(scale / zoomed - 1) < 1e-6; // and not zoomed: pictures keep their size, and stay if they can
        const sizes = moved ? [[side, ROOM / 2]] : SIDES.map(size => [size, ROOM]);
        let placed = [];
        for (const [size, room] of sizes) {
            placed = withRoom(near, size);
            if (placed.length >= room * near.length) {
                side = size;
                break;
            }
            placed = [];
        }
        zoomed = scale;
        const before = shown;
        shown = new Map();
        for (const {image, x, y} of placed) {
            shown.set(image, {x, y, element: before.get(image)?.element ?? picture(image)});
        }
        for (const [image, {element}] of before) {
            if (!shown.has(image)) {
                element.remove();
            }
        }
        for (const [image, {x, y, element}] of shown) {
            dress(element, image);
            element.setAttribute("transform", `translate(${(x - side / 2).toFixed(1)} ${(y - side / 2).toFixed(1)})`);
            if (!element.parentNode) {
                layers.pictures.append(element);
            }
        }
        const covers = image => [...shown.values()].some(other => Math.max(Math.abs(other.x - px(image)), Math.abs(other.y - py(image))) <= side / 2 + 4);
        const covered = shown.size ? near.filter(image => !shown.has(image) && covers(image)) : [];
        layers.covered.replaceChildren(...covered.map(image => part("circle", {cx: px(image), cy: py(image), r: 4, fill: colourOf(image), stroke: colour("--panel"), "stroke-width": 1.5})));
    }

    /* Of some images those whose pictures do not overlap: the selected one first, then those that are there. */
    function withRoom(images, size) {
        const rank = image => (image === window.headscope.index ? 0 : shown.has(image) ? 1 : 2);
        const placed = [];
        for (const image of [...images].sort((one, other) => rank(one) - rank(other) || one - other)) {
            const [x, y] = [px(image), py(image)];
            if (placed.every(other => Math.max(Math.abs(other.x - x), Math.abs(other.y - y)) >= size + 3)) {
                placed.push({image, x, y});
            }
        }
        return placed;
    }

    // Of the study whose points are drawn: another may be picked already.
    const address = image => `${at.gd.layout.meta.pictures}/thumbnail/${image}.webp`;

    function picture(image) {
        const element = part("g", {}, part("image", {href: address(image), preserveAspectRatio: "xMidYMid slice"}), part("rect", {fill: "none", "stroke-width": 2}));
        element.querySelector("image").addEventListener("error", () => element.classList.add("broken"));
        return element;
    }

    /* Its frame has the colour of its point; a broken frame is a wrong prediction, as the cross is. */
    function dress(element, image) {
        const [content, frame] = element.children;
        for (const child of [content, frame]) {
            child.setAttribute("width", side);
            child.setAttribute("height", side);
        }
        if (content.getAttribute("href") !== address(image)) { // another study
            content.setAttribute("href", address(image));
        }
        frame.setAttribute("stroke", marks?.same?.set.has(image) ? marks.same.colour : colourOf(image));
        frame.setAttribute("stroke-dasharray", traceOf(image).name === "wrong" ? "4 3" : "none");
    }

    function paintLasso() {
        layers.lasso.setAttribute("d", lasso?.length ? `M${lasso.map(corner => corner.map(Math.round).join(" ")).join("L")}Z` : "");
        layers.lasso.setAttribute("stroke", colour("--text"));
        layers.lasso.setAttribute("fill", colour("--text"));
        layers.lasso.setAttribute("fill-opacity", 0.06);
    }

    window.headscope.onSelection(() => overlay.repaint());

    /* --- the pointer --- */

    function placeOf(event) {
        const box = overlay.svg.getBoundingClientRect();
        return [event.clientX - box.left, event.clientY - box.top];
    }

    const isOver = (event, [x, y]) => points && event.target.closest?.(`#${GRAPH} .draglayer`) && x >= 0 && y >= 0 && x <= at.width && y <= at.height;

    function hover(image) {
        if (image === hovered) {
            return;
        }
        hovered = image;
        byId(GRAPH).classList.toggle("met", image !== null);
        overlay.repaint();
        tell(image);
    }

    /* The tooltip of an image; what is not asked for any more when it is there is not shown. */
    async function tell(image) {
        const set = props => window.dash_clientside.set_props("image-overview-tooltip", props);
        if (image === null) {
            set({show: false});
            return;
        }
        const body = byId(GRAPH).offsetParent.getBoundingClientRect();
        const box = overlay.svg.getBoundingClientRect();
        const half = shown.has(image) ? side / 2 + 2 : sizeOf(image) / 2 + 4;
        const [x, y] = [px(image) + box.left - body.left, py(image) + box.top - body.top];
        const bbox = {x0: x - half, x1: x + half, y0: y - half, y1: y + half};
        const children = await window.headscope.caption(image);
        if (image === hovered) {
            set({show: true, bbox, children});
        }
    }

    function click(image) {
        const again = image === last.image && performance.now() - last.time < TWICE;
        if (again) {
            if (last.released) {
                window.headscope.gesture("image", image);
            }
            window.headscope.gesture("large", "image-card");
            last = {image: null, time: -Infinity, released: false};
            return;
        }
        last = {image, time: performance.now(), released: image === window.headscope.index};
        window.headscope.gesture("image", image);
    }

    function arm(on) {
        armed = on;
        byId("image-overview-lasso").setAttribute("aria-pressed", on);
        byId(GRAPH).classList.toggle("armed", on);
    }

    function release(event) {
        const drawn = lasso;
        lasso = null;
        overlay.repaint();
        arm(false);
        if (event && drawn.length >= 3) {
            const step = Math.max(1, drawn.length / CORNERS);
            const corners = Array.from({length: Math.min(CORNERS, drawn.length)}, (_, corner) => drawn[Math.floor(corner * step)]);
            window.headscope.gesture("lasso", corners.flatMap(([x, y]) => [at.toX(x), at.toY(y)]));
        }
    }

    // In the capture phase: what is a lasso, or the second click on a point, does not reach Plotly, which would move the
    // points or show them all.
    addEventListener("pointerdown", event => {
        const place = placeOf(event);
        if (event.button !== 0 || !isOver(event, place)) {
            return;
        }
        pressed = place;
        if (armed || event.shiftKey) {
            lasso = [place];
            hover(null);
        }
        if (lasso || (imageAt(...place) !== null && imageAt(...place) === last.image && performance.now() - last.time < TWICE)) {
            event.preventDefault();
            event.target.setPointerCapture(event.pointerId);
        }
    }, {capture: true});

    addEventListener("pointermove", event => {
        if (lasso) {
            const place = placeOf(event), before = lasso.at(-1);
            if (Math.hypot(place[0] - before[0], place[1] - before[1]) >= 2) {
                lasso.push(place);
                paintLasso();
            }
        } else if (!event.buttons) {
            const place = placeOf(event);
            hover(isOver(event, place) ? imageAt(...place) : null);
        } else {
            hover(null);
        }
    }, {capture: true});

    addEventListener("pointerup", event => {
        const place = placeOf(event), start = pressed;
        pressed = null;
        if (!start) {
            return;
        }
        const still = Math.hypot(place[0] - start[0], place[1] - start[1]) < STILL;
        if (lasso) {
            release(still ? null : event);
        }
        const image = still ? imageAt(...place) : null;
        if (image !== null) {
            click(image);
        }
    }, {capture: true});

    addEventListener("pointercancel", () => {
        pressed = null;
        if (lasso) {
            release(null);
        }
    });

    addEventListener("keydown", event => {
        if (event.key === "Escape" && (lasso || armed)) {
            event.stopImmediatePropagation();
            pressed = null;
            lasso ? release(null) : arm(false);
        }
    }, {capture: true});

    document.addEventListener("click", event => {
        const entry = event.target.closest?.("#image-overview-legend button");
        if (entry) {
            const {kind, value} = entry.dataset;
            window.headscope.gesture(kind, kind === "class" ? Number(value) : value);
        } else if (event.target.closest?.("#image-overview-lasso")) {
            arm(!armed);
        }
    });

    // What the server says beside the figure. Colours for the figure that is drawn go to it; a new one has its own.
    window.headscope.onTold("image-overview-marks", told => {
        const same = told?.same && new Int32Array(bytes(told.same.images).buffer);
        marks = told && {...told, same: same && {colour: told.same.colour, places: [...same], set: new Set(same)}};
        if (points && told?.shades && at.gd.layout.meta?.drawn_for === told.drawn_for) {
            const shades = bytes(told.shades);
            const coloured = points.traces.map((trace, number) => ({...trace, number})).filter(trace => trace.name !== "outside");
            const colours = coloured.map(trace => Uint8Array.from(trace.customdata ?? [], image => shades[image]));
            window.Plotly.restyle(at.gd, {"marker.color": colours}, coloured.map(trace => trace.number));
        }
        overlay.repaint();
    });
})();
