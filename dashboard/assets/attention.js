/* Where does the head look? Fetches the selected head's attention and shows it four ways, which light each other up
   under the pointer without asking the server. attention_head.js has the numbers, attention_paint.js the drawing. */
window.headAttention = window.headAttention || {};
(() => {
    const KEPT = 12; // heads, in memory: 38,809 values and their order are 0.2 MB
    const REACH = 40; // px from an axis, in which the pointer means its tokens
    const STEP = 1.1; // of an arrow key, by which the shown share changes
    const MOST_STROKES = 20_000; // lines of an exported picture

    const own = () => window.headAttention; // its other parts are loaded after this one

    let head = null; // what is shown
    let photo = ""; // address of the picture under the masks
    let aspect = 1; // of it
    let wanted = null; // address of what is to be shown
    let asking = null; // AbortController of the request that runs
    let hovered = null; // as `lit` of attention_paint.js
    let top = 1; // per cent that are shown: the selection's, or what it is dragged to
    let dragging = false;
    let colours = null;
    let theme = "";
    let painted = ""; // what of the selection it was painted from, besides the head
    const heads = new Map(); // by address, the last used last

    let masks, axes, matrix, histogram, threshold, readout, legend; // what it is drawn with, of `build`
    const sizes = new WeakMap(); // of the canvases, [width, height]

    const byId = id => document.getElementById(id);
    const percent = share => `${Math.round(share * 100)}\u202f%`;

    /* --- what is picked --- */

    function select(selection, index, facts) {
        mount();
        if (!dragging) {
            top = selection.top;
        }
        if (theme !== selection.theme) {
            [theme, colours] = [selection.theme, own().tones()];
        }
        const before = painted;
        painted = JSON.stringify([selection.token, selection.direction, top, theme]);
        byId("head-attention-views").classList.toggle("none", index === null);
        if (index === null) {
            asking?.abort();
            [wanted, head, hovered] = [null, null, null];
            say("");
            return;
        }
        const address = `${facts.pictures}/attention/${index}/${selection.layer}/${selection.head}.f16`;
        if (address !== wanted) {
            headscope.hold(want(address, `${facts.pictures}/image/${index}.png`, facts));
        } else if (head && painted !== before) {
            paint();
        }
    }

    /* Shows that head as soon as it is there, and its picture; until then the old one stays. */
    async function want(address, picture, facts) {
        wanted = address;
        asking?.abort();
        asking = new AbortController();
        const slow = setTimeout(() => busy(true), headscope.NOTICED);
        try {
            const [found] = await Promise.all([headAt(address, facts, asking.signal), picture === photo ? null : loaded(picture)]);
            if (address === wanted) {
                show(found, picture, facts);
                byId("head-attention-views").dataset.shown = address;
            }
        } catch (error) {
            if (address === wanted) {
                [wanted, head, hovered] = [null, null, null];
                say(error instanceof TypeError ? "The server does not answer; pick the head again when it does." : error.message);
            }
        } finally {
            clearTimeout(slow);
            if (address === wanted || !wanted) {
                busy(false);
            }
        }
    }

    async function headAt(address, facts, signal) {
        let found = heads.get(address);
        if (!found) {
            const answer = await fetch(address, {signal});
            if (!answer.ok) {
                throw new Error(await answer.text());
            }
            found = new (own().Head)(await answer.arrayBuffer(), facts);
        }
        heads.delete(address);
        heads.set(address, found);
        if (heads.size > KEPT) {
            heads.delete(heads.keys().next().value);
        }
        return found;
    }

    /* Fulfilled when the browser has the picture, or knows that there is none. */
    const loaded = address => Object.assign(new Image(), {src: address}).decode().catch(() => {});

    function show(found, picture, facts) {
        [head, photo, aspect] = [found, picture, facts.aspect];
        say("");
        for (const {frame, image} of Object.values(masks)) {
            frame.style.setProperty("--aspect", aspect);
            image.onload = image.onerror = event => image.classList.toggle("broken", event.type === "error");
            image.src = picture;
            image.classList.toggle("crisp", facts.small < 150);
        }
        paint();
    }

    function say(problem) {
        byId("head-attention-views").classList.toggle("failed", problem !== "");
        byId("head-attention-said").textContent = problem;
    }

    /* The thin bar of a panel that works. */
    function busy(works) {
        byId("head-attention-said").closest(".panel").classList.toggle("working", works);
    }

    /* --- what is lit --- */

    const ofToken = (token, direction) => ({
        token,
        query: direction === "to" ? undefined : token,
        key: direction === "from" ? undefined : token,
        pair: false,
    });
    const byDefault = () => (head.has_cls ? 0 : null);

    /* What is pointed at, or else pinned; null if nothing is, and then the masks are of CLS or the mean. */
    function lit() {
        const {token, direction} = headscope.selection;
        const pinned = token ?? (direction === "both" ? null : byDefault());
        return hovered ?? (pinned === null || pinned >= head.tokens ? null : ofToken(pinned, direction));
    }

    function view() {
        const now = lit();
        const shown = now ? {source: now.pair ? now.key : now.token, target: now.pair ? now.query : now.token} : {source: byDefault() ?? undefined, target: byDefault()};
        return {head, cut: head.top(top), lit: now, shown, tones: colours};
    }

    const pin = (token, direction) => headscope.gesture("token", {token, direction});

    /* --- painting --- */

    let due = null; // what the next frame paints

    /* "lit" is what follows the pointer, "cut" all that the threshold changes. */
    function soon(what) {
        if (!due) {
            requestAnimationFrame(() => {
                const now = due;
                due = null;
                if (head) {
                    now === "cut" ? paintCut() : paintLit(view());
                }
            });
        }
        due = due === "cut" ? due : what;
    }

    /* The canvas, empty and as sharp as the screen: [its brush, width, height, pixels of the screen for one]. Its size
       was told, by a ResizeObserver: to ask for it makes the browser lay the page out. */
    function fitted(canvas) {
        const scale = devicePixelRatio || 1;
        const [across, down] = sizes.get(canvas) ?? [0, 0];
        const [width, height] = [Math.round(across * scale), Math.round(down * scale)];
        const brush = canvas.getContext("2d");
        if (canvas.width !== width || canvas.height !== height) {
            Object.assign(canvas, {width, height});
            brush.setTransform(scale, 0, 0, scale, 0, 0);
        } else {
            brush.clearRect(0, 0, across, down);
        }
        return [brush, across, down, scale];
    }

    function paint() {
        paintTokens();
        paintLegend();
        paintCut();
    }

    function paintCut() {
        const now = view();
        const [lines, width, height, scale] = fitted(axes.base);
        const [cells, size] = fitted(matrix.base);
        const [bars, across, down] = fitted(histogram.base);
        if (!width || !size || !across) {
            return; // not on the screen
        }
        lines.drawImage(own().linesImage(now, width, height - 2 * own().EDGE, scale), 0, own().EDGE, width, height - 2 * own().EDGE);
        cells.drawImage(own().matrixImage(now, size * scale), 0, 0, size, size);
        own().paintHistogram(bars, now, across, down);
        placeThreshold(now, across, down);
        paintLit(now);
    }

    const KINDS = ["picture", "source", "target"];

    function paintLit(now) {
        const [lines, width, height] = fitted(axes.lit);
        const [cross, size] = fitted(matrix.lit);
        own().paintAxes(lines, now, width, height);
        if (now.lit) {
            own().strokeLit(lines, now, width, height);
            own().paintCross(cross, now, size);
        }
        axes.place.classList.toggle("faded", now.lit !== null);
        for (const [kind, {canvas, words, number}] of Object.entries(masks)) {
            const [brush, wide, high] = fitted(canvas);
            const strongest = own().paintMask(brush, kind, now, wide, high);
            words.textContent = own().caption(kind, now);
            number.textContent = strongest === null ? "" : headscope.number(strongest);
        }
        readout.textContent = readoutOf(now);
        for (const [side, direction] of [["source", "query"], ["target", "key"]]) {
            tellToken(axes[side], now.lit?.[direction] ?? now.shown[side] ?? head.first);
        }
        tellToken(masks.picture.slider, now.lit?.token ?? now.shown.target ?? head.first);
    }

    function readoutOf({lit: now, cut}) {
        if (!now) {
            return `${cut.count.toLocaleString("en")} of ${head.order.length.toLocaleString("en")} are shown${cut.count > own().MOST_LINES ? `, as lines ${own().MOST_LINES.toLocaleString("en")}` : ""}`;
        }
        if (now.pair) {
            return `${head.name(now.query)} → ${head.name(now.key)}: ${headscope.number(head.attention(now.query, now.key))}`;
        }
        const lines = head.cellsOf(now, cut.code).length;
        const prefix = head.prefixName;
        const side = now.key === undefined ? " from it" : now.query === undefined ? " to it" : "";
        const to = prefix && now.query !== undefined ? ` · ${percent(head.toPrefix(now.token))} to ${prefix}` : "";
        return `${head.name(now.token)}: ${lines} ${lines === 1 ? "line" : "lines"}${side}${to}`;
    }

    function paintLegend() {
        const prefix = head.prefixName;
        const scale = (name, said, most) => {
            const ramp = headscope.element("i", {class: "ramp"});
            ramp.style.background = `linear-gradient(to right, ${[0, 64, 128, 192, 255].map(level => colours[name].css[level]).join(",")})`;
            return headscope.element("span", {}, said, ramp, headscope.number(most));
        };
        legend.replaceChildren(...(prefix ? [scale("cls", `${prefix} 0`, head.most.cls)] : []), scale("patch", "patches 0", head.most.patch));
    }

    /* Buttons of what the masks are of: prefix tokens, and in a model without CLS the mean. */
    function paintTokens() {
        const {token, direction} = headscope.selection;
        const pinned = token ?? byDefault();
        const options = head.prefix.map((name, each) => [name, each]);
        if (!head.has_cls) {
            options.unshift(["mean", null]);
        }
        byId("attention-tokens").replaceChildren(
            ...options.map(([name, each]) => {
                const looks = {
                    class: each === pinned ? "option on" : "option",
                    title: each === null ? "Masks of the mean over patches" : `Masks of ${name}`,
                    "aria-pressed": each === pinned,
                };
                const button = headscope.element("button", looks, each === null ? name : head.short(each));
                // The same again releases; CLS and the mean are what is left then.
                button.onclick = () => (each === byDefault() ? token !== null && pin(token, direction) : pin(each, "both"));
                return button;
            }),
        );
    }

    /* --- the threshold --- */

    function placeThreshold({cut}, width, height) {
        const plot = own().plotOf(width, height);
        const {least, most, place} = head.histogram;
        const {handle} = histogram;
        handle.style.left = `${plot.left + plot.width * place(cut.number)}px`;
        handle.style.height = `${plot.top + plot.height}px`;
        const said = {min: Math.log10(least), max: Math.log10(most), now: Math.log10(Math.max(least, cut.number))};
        for (const [name, value] of Object.entries(said)) {
            handle.setAttribute(`aria-value${name}`, value.toFixed(3));
        }
        const shown = shareText((100 * cut.count) / head.order.length);
        handle.setAttribute("aria-valuetext", `≥ ${headscope.number(cut.number)} · top ${shown} %`);
        for (const [input, text] of [[threshold.least, headscope.number(cut.number)], [threshold.top, shown]]) {
            if (document.activeElement !== input || dragging) {
                input.value = text;
            }
        }
    }

    /* Per cent, with what is needed to see that they change. */
    const shareText = share => (share >= 10 ? share.toFixed(1) : share >= 0.1 ? share.toFixed(2) : headscope.number(share)).replace(/(\.\d)0$/, "$1");

    function cutAt(share) {
        const [least, most] = headscope.facts.top;
        top = Number(Math.min(most, Math.max(least, share)).toPrecision(4));
        soon("cut");
    }

    const settle = () => headscope.gesture("top", top);

    function listenToThreshold() {
        const {place: plot, handle} = histogram;
        const follow = event => {
            const box = plot.getBoundingClientRect();
            const {left, width} = own().plotOf(box.width, box.height);
            cutAt(head.percent(head.histogram.number((event.clientX - box.left - left) / width)));
        };
        plot.onpointerdown = event => {
            if (head && event.button === 0) {
                dragging = true;
                plot.setPointerCapture(event.pointerId);
                follow(event);
            }
        };
        plot.onpointermove = event => dragging && head && follow(event);
        plot.onpointerup = plot.onpointercancel = () => {
            if (dragging) {
                dragging = false;
                settle();
            }
        };
        const moves = {
            ArrowRight: () => top / STEP,
            ArrowUp: () => top / STEP,
            ArrowLeft: () => top * STEP,
            ArrowDown: () => top * STEP,
            PageUp: () => top / 2,
            PageDown: () => top * 2,
            Home: () => headscope.facts.top[1],
            End: () => headscope.facts.top[0],
        };
        handle.onkeydown = event => {
            if (head && moves[event.key]) {
                event.preventDefault();
                cutAt(moves[event.key]());
            }
        };
        handle.onkeyup = event => head && moves[event.key] && settle();
        const typed = (input, share) => {
            input.onchange = event => {
                const value = Number(event.target.value.replace("\u2212", "-").replace(",", "."));
                if (head && value > 0) {
                    cutAt(share(value));
                    settle();
                }
                event.target.blur();
                soon("cut"); // says what it is, if that was no number
            };
        };
        typed(threshold.least, value => head.percent(value));
        typed(threshold.top, value => value);
    }

    /* --- the pointer, and its keys --- */

    /* Pointer events of `element`: `at(x, y, width, height)` says what is lit there, and `pinned` what a click pins. */
    function follow(element, at, pinned) {
        const found = event => {
            const box = element.getBoundingClientRect();
            return at(event.clientX - box.left, event.clientY - box.top, box.width, box.height);
        };
        const point = now => {
            hovered = now;
            soon("lit");
        };
        element.addEventListener("pointermove", event => head && point(found(event)));
        element.addEventListener("pointerleave", () => head && point(null));
        element.addEventListener("click", event => {
            const now = head && found(event);
            if (now) {
                pin(...pinned(now));
            }
        });
    }

    const tellToken = (slider, token) => {
        slider.setAttribute("aria-valuemax", head.tokens - 1);
        slider.setAttribute("aria-valuenow", token);
        slider.setAttribute("aria-valuetext", head.name(token));
    };

    /* Arrow keys of a slider over the tokens: one on, or one row of patches; Enter pins, Escape lets go. */
    function listenToKeys(slider, direction) {
        const steps = {ArrowLeft: () => -1, ArrowRight: () => 1, ArrowUp: () => -head.grid[1], ArrowDown: () => head.grid[1]};
        slider.addEventListener("keydown", event => {
            const token = Number(slider.getAttribute("aria-valuenow"));
            if (!head || event.ctrlKey || event.metaKey || event.altKey) {
                return;
            }
            if (steps[event.key]) {
                const next = Math.min(head.tokens - 1, Math.max(0, token + steps[event.key]()));
                slider.setAttribute("aria-valuenow", next); // the next key may come before the next frame
                hovered = ofToken(next, direction);
            } else if (event.key === "Enter" || event.key === " ") {
                pin(token, direction);
            } else if (event.key === "Escape" && hovered) {
                hovered = null;
            } else {
                return;
            }
            event.preventDefault();
            soon("lit");
        });
        slider.addEventListener("blur", () => {
            hovered = null;
            soon("lit");
        });
    }

    const directionOf = ({query, key}) => (query === undefined ? "to" : key === undefined ? "from" : "both");

    /* Fills the panel. */
    function build() {
        const {element} = headscope;
        const canvas = (name, label) => element("canvas", {class: name, role: "img", "aria-label": label});
        const lit = () => element("canvas", {class: "lit"});
        // What the arrow keys move; tellToken and placeThreshold tell where it is.
        const slider = (name, label) => {
            const where = {"aria-label": label, "aria-valuemin": 0, "aria-valuemax": 1, "aria-valuenow": 0};
            return element("div", {class: name, role: "slider", tabindex: 0, ...where});
        };
        const placed = (id, kind, made) => ({place: element("div", {id, class: kind}, ...Object.values(made)), ...made});
        const empty = (id, kind) => element("div", {id, class: kind});
        const title = words => element("div", {class: "axis-title"}, words);
        const input = (name, label) => element("input", {
            class: "form-control form-control-sm", name, type: "text", inputmode: "decimal", autocomplete: "off", "aria-label": label,
        });
        // The image, alone or under the mask of where a token is looked at from, or looks to.
        const mask = kind => {
            const made = {image: element("img", {alt: ""}), canvas: element("canvas")};
            if (kind === "picture") {
                made.slider = slider("patches", "Patch of the image");
            }
            const frame = element("div", {class: "frame"}, ...Object.values(made));
            const words = element("b"), number = element("span");
            const figure = element("figure", {class: kind}, frame, element("figcaption", {}, words, number));
            return {figure, frame, words, number, ...made};
        };
        axes = placed("two-axes", "two-axes", {
            base: canvas("base", "Lines from source tokens, above, to target tokens, below"),
            lit: lit(),
            source: slider("source", "Source token"),
            target: slider("target", "Target token"),
        });
        matrix = placed("attention-matrix", "matrix", {
            base: canvas("base", "Attention matrix: a row a source token, a column a target token"),
            lit: lit(),
        });
        histogram = placed("attention-histogram", "histogram", {
            base: canvas("base", "Histogram of the attention values"),
            handle: slider("handle", "Least attention that is shown"),
        });
        masks = Object.fromEntries(KINDS.map(kind => [kind, mask(kind)]));
        [readout, legend] = [empty("attention-readout", "readout"), empty("attention-legend", "legend")];
        threshold = {least: input("least", "Least attention that is shown"), top: input("top", "Share of all values that is shown, per cent")};
        const {least, top: share} = threshold;
        byId("head-attention-views").replaceChildren(
            element("div", {id: "attention-masks", class: "masks"}, ...Object.values(masks).map(({figure}) => figure)),
            element("div", {class: "axes"}, title("source tokens"), axes.place, title("target tokens"), legend),
            element("div", {class: "cells"},
                matrix.place,
                readout,
                element("div", {id: "attention-threshold", class: "threshold"}, "≥ ", least, " · top ", share, " %"),
                histogram.place),
        );
    }

    function mount() {
        if (byId("head-attention-views").childElementCount) {
            return;
        }
        build();
        listenToThreshold();

        follow(
            axes.place,
            (x, y, width, height) => {
                const token = () => own().along(head, width).at(Math.min(width - 1, Math.max(0, x)));
                return y < REACH ? ofToken(token(), "from") : y > height - REACH ? ofToken(token(), "to") : null;
            },
            now => [now.token, directionOf(now)],
        );
        follow(
            matrix.place,
            (x, y, size) => {
                const side = own().along(head, size);
                return {query: side.at(y), key: side.at(x), pair: true};
            },
            now => [now.query, "from"],
        );
        const inside = (share, count) => Math.min(count - 1, Math.max(0, Math.floor(share * count)));
        for (const {frame} of Object.values(masks)) {
            follow(
                frame,
                (x, y, width, height) => ofToken(head.first + inside(y / height, head.grid[0]) * head.grid[1] + inside(x / width, head.grid[1]), "both"),
                now => [now.token, "both"],
            );
        }
        listenToKeys(axes.source, "from");
        listenToKeys(axes.target, "to");
        listenToKeys(masks.picture.slider, "both");
        byId("attention-suggested").addEventListener("click", event => {
            const index = event.target.closest("[data-index]")?.dataset.index;
            if (index !== undefined) {
                headscope.gesture("image", Number(index));
            }
        });
        // The mouse takes no focus here: arrow keys go on moving heads.
        byId("head-attention-views").addEventListener("mousedown", event => {
            if (event.target.tagName !== "INPUT") {
                document.activeElement.blur();
                event.preventDefault();
            }
        });
        // The page is laid out when it tells of sizes, and not yet painted.
        const watch = new ResizeObserver(entries => {
            entries.forEach(({target}) => sizes.set(target, [target.clientWidth, target.clientHeight]));
            if (head) {
                paintCut();
            }
        });
        byId("head-attention-views").querySelectorAll("canvas").forEach(canvas => watch.observe(canvas));
        Object.assign(headscope.painters, painters);
    }

    /* --- what is exported: the same, on a canvas that is given --- */

    const LINE = 16; // px of a line of text
    const FADED = 0.25;

    /* What is pinned, not what the pointer happens to be on. */
    function viewToExport() {
        if (!head) {
            throw new Error("there is no attention to draw: pick an image");
        }
        const before = hovered;
        hovered = null;
        const now = view();
        hovered = before;
        return now;
    }

    const painters = {
        "two-axes"(brush, width, height) {
            const now = viewToExport();
            own().write(brush, now.tones, "source tokens", width / 2, LINE - 5, {align: "center"});
            own().write(brush, now.tones, "target tokens", width / 2, height - 4, {align: "center"});
            brush.save();
            brush.translate(0, LINE);
            own().paintAxes(brush, now, width, height - 2 * LINE);
            brush.globalAlpha = now.lit ? FADED : 1;
            const cells = head.order.subarray(0, Math.min(now.cut.count, MOST_STROKES)).slice().sort((a, b) => head.level(a) - head.level(b));
            own().strokeLines(brush, now, cells, width, height - 2 * LINE);
            brush.globalAlpha = 1;
            if (now.lit) {
                own().strokeLit(brush, now, width, height - 2 * LINE);
            }
            brush.restore();
        },

        "attention-matrix"(brush, width, height) {
            const now = viewToExport();
            const size = Math.min(width, height);
            brush.drawImage(own().matrixImage(now, 4 * size), 0, 0, size, size);
            brush.strokeStyle = now.tones.line;
            brush.lineWidth = 1;
            brush.strokeRect(0.5, 0.5, size - 1, size - 1);
            if (now.lit) {
                own().paintCross(brush, now, size);
            }
        },

        "attention-histogram"(brush, width, height) {
            const now = viewToExport();
            const plot = own().plotOf(width, height - LINE);
            const x = plot.left + plot.width * head.histogram.place(now.cut.number);
            const share = shareText((100 * now.cut.count) / head.order.length);
            own().write(brush, now.tones, `≥ ${headscope.number(now.cut.number)} · top ${share} %`, width / 2, LINE - 5, {align: "center"});
            brush.save();
            brush.translate(0, LINE);
            own().paintHistogram(brush, now, width, height - LINE);
            brush.fillStyle = now.tones.text;
            brush.fillRect(x - 0.75, 0, 1.5, plot.top + plot.height);
            brush.restore();
        },

        /* Beside each other or stacked, as there is room. */
        "attention-masks"(brush, width, height) {
            const now = viewToExport();
            const across = width > height;
            const [roomX, roomY] = across ? [(width - 2 * LINE) / 3, height - LINE] : [width, height / 3 - LINE - 4];
            const wide = Math.min(roomX, roomY * aspect);
            const high = wide / aspect;
            KINDS.forEach((kind, place) => {
                brush.save();
                brush.translate(across ? place * (roomX + LINE) : 0, across ? 0 : place * (roomY + LINE + 4));
                brush.drawImage(masks[kind].image, 0, 0, wide, high);
                const strongest = own().paintMask(brush, kind, now, wide, high);
                own().write(brush, now.tones, own().caption(kind, now), 0, high + LINE - 4, {colour: now.tones.text});
                if (strongest !== null) {
                    own().write(brush, now.tones, headscope.number(strongest), wide, high + LINE - 4, {align: "right"});
                }
                brush.restore();
            });
        },
    };

    addEventListener("DOMContentLoaded", () => headscope.onSelection(select));
})();
