/* Where does the head look? Paints one head's attention, sent by views/head_attention.py, as a matrix and as masks.
   Tokens are numbered as in the model: prefix tokens first, then patches, row by row from the top left. */
window.dash_clientside = window.dash_clientside || {};
(() => {
    const GAP = 3; // px between prefix tokens and patches in the matrix
    const BAND = 12; // px of one prefix token, as wide as the paper draws it: one pixel is not seen
    const MOST_BANDS = 0.25; // of the matrix, for models with many registers
    const DARK = 0.82; // opacity of the mask where nothing is looked at
    const MEAN = null; // "token" of the mean over all patches

    let head = null; // what is painted
    let pinned = null; // query token of the selection; null is the model's default
    let hovered; // query token under the pointer; undefined is none

    const byId = id => document.getElementById(id);
    const style = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    const part = (tag, className, ...children) => {
        const made = document.createElement(tag);
        made.className = className;
        made.append(...children);
        return made;
    };

    /* --- the numbers --- */

    function decoded(sent) {
        const steps = Uint8Array.from(atob(sent.weights), letter => letter.charCodeAt(0));
        return {...sent, steps, tokens: Math.sqrt(steps.length), first: sent.prefix.length};
    }

    const isPrefix = token => token < head.first;
    const most = (query, key) => head.most[isPrefix(query) || isPrefix(key) ? "cls" : "patch"];
    const attention = (query, key) => (head.steps[query * head.tokens + key] / 255) ** 2 * most(query, key);
    const byDefault = () => (head.has_cls ? 0 : MEAN);
    const shownToken = () => (hovered !== undefined ? hovered : pinned !== null ? pinned : byDefault());

    /* Attention that each patch gets from `token`, or, from the other side, pays to it. */
    function overPatches(token, side) {
        const patches = head.tokens - head.first;
        const values = new Float32Array(patches);
        for (let patch = 0; patch < patches; patch++) {
            const other = head.first + patch;
            if (token !== MEAN) {
                values[patch] = side === "target" ? attention(token, other) : attention(other, token);
            } else {
                for (let query = head.first; query < head.tokens; query++) {
                    values[patch] += attention(query, other) / patches;
                }
            }
        }
        return values;
    }

    function tokenName(token) {
        if (token === MEAN) {
            return "mean over patches";
        }
        if (isPrefix(token)) {
            return head.prefix[token];
        }
        const patch = token - head.first;
        return `patch (${Math.floor(patch / head.grid[1])}, ${patch % head.grid[1]})`;
    }

    const number = value => (value >= 0.001 ? Number(value.toPrecision(2)).toString() : value > 0 ? value.toExponential(1).replace("-", "\u2212") : "0");
    const percent = share => `${Math.round(share * 100)}\u202f%`;

    /* --- painting --- */

    function fitted(canvas) {
        const scale = devicePixelRatio || 1;
        const {clientWidth, clientHeight} = canvas;
        canvas.width = Math.round(clientWidth * scale);
        canvas.height = Math.round(clientHeight * scale);
        const brush = canvas.getContext("2d");
        brush.setTransform(scale, 0, 0, scale, 0, 0);
        return [brush, clientWidth, clientHeight];
    }

    /* 256 colours of a ramp, as bytes. */
    function colours(name) {
        const ramp = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
        const blend = ramp.createLinearGradient(0, 0, 255, 0);
        const steps = style(name).split(",");
        steps.forEach((colour, step) => blend.addColorStop(step / (steps.length - 1), colour));
        ramp.fillStyle = blend;
        ramp.fillRect(0, 0, 256, 1);
        return ramp.getImageData(0, 0, 256, 1).data;
    }

    function pixels(width, height, colourAt) {
        const canvas = Object.assign(document.createElement("canvas"), {width, height});
        const brush = canvas.getContext("2d");
        const data = brush.createImageData(width, height);
        for (let cell = 0; cell < width * height; cell++) {
            colourAt(cell, data.data, cell * 4);
        }
        brush.putImageData(data, 0, 0);
        return canvas;
    }

    /* Where the matrix has its tokens: prefix tokens as bands, then a gap, then the patches. */
    function geometry(size) {
        const band = head.first ? Math.min(BAND, (size * MOST_BANDS) / head.first) : 0;
        const start = head.first ? head.first * band + GAP : 0;
        const cell = (size - start) / (head.tokens - head.first);
        return {
            start,
            from: token => (isPrefix(token) ? token * band : start + (token - head.first) * cell),
            width: token => (isPrefix(token) ? band : cell),
            at: place => {
                if (place < start) {
                    return Math.min(head.first - 1, Math.max(0, Math.floor(place / band)));
                }
                return Math.min(head.tokens - 1, head.first + Math.floor((place - start) / cell));
            },
        };
    }

    function paintMatrix() {
        const [brush, size] = fitted(byId("attention-matrix").querySelector(".paint"));
        const [blue, orange] = [colours("--cls"), colours("--patch")];
        const {tokens, first, steps} = head;
        const all = pixels(tokens, tokens, (cell, data, at) => {
            const palette = cell / tokens < first || cell % tokens < first ? blue : orange;
            data.set(palette.subarray(steps[cell] * 4, steps[cell] * 4 + 4), at);
        });
        const {start} = geometry(size);
        const spans = first ? [[0, first, 0, start - GAP], [first, tokens - first, start, size - start]] : [[0, tokens, 0, size]];
        brush.imageSmoothingEnabled = size < tokens;
        for (const [top, rows, y, height] of spans) {
            for (const [left, columns, x, width] of spans) {
                brush.drawImage(all, left, top, columns, rows, x, y, width, height);
            }
        }
    }

    function paintCross(key) {
        const [brush, size] = fitted(byId("attention-matrix").querySelector(".cross"));
        const place = geometry(size);
        const token = shownToken();
        brush.strokeStyle = style("--accent");
        brush.lineWidth = 1.5;
        if (token !== MEAN) {
            brush.strokeRect(0.75, place.from(token) - 0.75, size - 1.5, Math.max(2, place.width(token)) + 1.5);
        }
        if (key !== undefined) {
            brush.lineWidth = 1;
            brush.strokeRect(place.from(key) - 0.5, 0.5, Math.max(2, place.width(key)) + 1, size - 1);
        }
    }

    function paintMask(kind, token) {
        const canvas = byId("attention-masks").querySelector(`.${kind} canvas`);
        const [brush, width, height] = fitted(canvas);
        const [rows, columns] = head.grid;
        const nothing = kind === "picture" || (kind === "source" && token === MEAN);
        let strongest = 0;
        if (!nothing) {
            const values = overPatches(token, kind);
            strongest = values.reduce((a, b) => Math.max(a, b), 0);
            const mask = pixels(columns, rows, (patch, data, at) => {
                data[at] = 8;
                data[at + 1] = 10;
                data[at + 2] = 13;
                data[at + 3] = 255 * DARK * (1 - Math.sqrt(values[patch] / (strongest || 1)));
            });
            brush.imageSmoothingEnabled = false;
            brush.drawImage(mask, 0, 0, width, height);
        }
        if (token !== MEAN && !isPrefix(token)) {
            const [row, column] = [Math.floor((token - head.first) / columns), (token - head.first) % columns];
            brush.strokeStyle = style("--accent");
            brush.lineWidth = 2;
            brush.strokeRect((column * width) / columns, (row * height) / rows, width / columns, height / rows);
        }
        return nothing ? null : strongest;
    }

    function say(kind, title, more, ...details) {
        const caption = byId("attention-masks").querySelector(`.${kind} figcaption`);
        caption.replaceChildren(part("div", "", part("b", "", title), more), part("span", "", details.filter(Boolean).join(" · ")));
    }

    function paintMasks() {
        const token = shownToken();
        paintMask("picture", token);
        say("picture", tokenName(token), "", hovered === undefined && pinned !== null ? "pinned; click releases" : "hover or click a patch");
        const source = paintMask("source", token);
        say("source", "Source", " what looks at it", source === null ? "pick a patch first" : `max ${number(source)}`);
        const target = paintMask("target", token);
        const toPrefix = token === MEAN ? average(head.to_prefix.slice(head.first)) : head.to_prefix[token];
        const prefix = head.prefix.length > 1 ? "prefix" : head.prefix[0];
        say("target", "Target", " where it looks", `max ${number(target)}`, prefix && `${percent(toPrefix)} to ${prefix}`);
    }

    const average = values => values.reduce((sum, value) => sum + value, 0) / values.length;

    function paintLegend() {
        const scale = (name, said, top) => {
            const ramp = part("i", "ramp");
            ramp.style.background = `linear-gradient(to right, ${style(name)})`;
            return part("span", "", `${said} 0`, ramp, number(top));
        };
        const prefix = head.prefix.length > 1 ? "prefix" : head.prefix[0];
        byId("attention-matrix-legend").replaceChildren(
            ...(prefix ? [scale("--cls", `${prefix}-related`, head.most.cls)] : []),
            scale("--patch", "patch → patch", head.most.patch),
            part("span", "faint", "√ scale"),
        );
    }

    function paintTokens() {
        const options = head.prefix.map((name, token) => [name, token]);
        const current = pinned !== null ? pinned : byDefault();
        if (!head.has_cls) {
            options.unshift(["mean", MEAN]);
        }
        byId("attention-tokens").replaceChildren(
            ...options.map(([name, token]) => {
                const button = part("button", token === current ? "option on" : "option", name.replace("register ", "R"));
                button.title = name;
                button.onclick = () => pick(token === current ? byDefault() : token);
                return button;
            }),
        );
    }

    function readout(query, key) {
        byId("attention-matrix-readout").textContent =
            query === undefined ? "" : `${tokenName(query)} → ${tokenName(key)}: ${number(attention(query, key))}`;
    }

    function repaint(key) {
        paintCross(key);
        paintMasks();
    }

    /* --- the pointer --- */

    const pick = token => window.dash_clientside.set_props("attention-token", {data: {token, at: Date.now()}});

    /* Pointer events of `element`, each told as the token or tokens that `find` sees there. */
    function follow(element, find, show) {
        const found = event => {
            const box = element.getBoundingClientRect();
            return find((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height, box);
        };
        element.onpointermove = event => head && show(...found(event));
        element.onpointerleave = () => head && show();
        element.onclick = event => head && pick(found(event)[0]);
    }

    function listen() {
        const show = (query, key) => {
            hovered = query;
            repaint(key);
            readout(query, key);
        };
        follow(
            byId("attention-matrix"),
            (x, y, box) => {
                const place = geometry(box.width);
                return [place.at(y * box.height), place.at(x * box.width)];
            },
            show,
        );
        const inside = (share, count) => Math.min(count - 1, Math.max(0, Math.floor(share * count)));
        for (const frame of byId("attention-masks").querySelectorAll(".frame")) {
            const find = (x, y) => [head.first + inside(y, head.grid[0]) * head.grid[1] + inside(x, head.grid[1])];
            follow(frame, find, query => {
                hovered = query;
                repaint();
            });
        }
        new ResizeObserver(() => head && paint()).observe(byId("attention-masks"));
        new ResizeObserver(() => head && paint()).observe(byId("attention-matrix"));
    }

    function paint() {
        paintMatrix();
        paintLegend();
        paintTokens();
        repaint();
    }

    let listening = false;

    window.dash_clientside.attention = {
        /* Paint what was sent; nothing, where there is no image or no attention. */
        show(sent, selection) {
            if (!listening) {
                listening = true;
                listen();
            }
            head = sent ? decoded(sent) : null;
            pinned = selection ? selection.token : null;
            for (const id of ["attention-matrix", "attention-masks"]) {
                byId(id).classList.toggle("off", !head);
            }
            byId("attention-matrix-legend").replaceChildren();
            byId("attention-tokens").replaceChildren();
            readout();
            if (!head) {
                return;
            }
            for (const frame of byId("attention-masks").querySelectorAll(".frame")) {
                frame.style.setProperty("--aspect", head.aspect);
                const image = frame.querySelector("img");
                image.onload = image.onerror = event => image.classList.toggle("broken", event.type === "error");
                image.src = head.image;
                image.classList.toggle("crisp", head.small < 150);
            }
            paint();
        },
    };
})();
