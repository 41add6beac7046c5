/* How is one head's attention drawn? As masks, as lines between two axes, as a matrix and as a histogram; each on any
   canvas of any size, so that what is exported is what is seen. `view` is {head, cut, lit, tones, photo, shown}:
   cut      what is strong enough, of head.top
   lit      what is pointed at or pinned: {query, key, token, pair}, or null
   shown    the tokens of the masks: {source, target}; null is the mean over patches, undefined none
   tones    colours, of tones() */
window.headAttention = window.headAttention || {};
(() => {
    const GAP = 3; // px between prefix tokens and patches
    const BAND = 12; // px of one prefix token, as wide as the paper draws it: one pixel is not seen
    const MOST_BANDS = 0.25; // of the side, for models with many registers
    const VEIL = 0.88; // opacity of the mask where nothing is looked at
    const GREY = 0x6b6b6b; // of the mask: dark photos and bright ones vanish beneath it alike
    const FLOOR = 0.16; // of a ramp: where its colours begin, so that what is drawn differs from what is not
    const EDGE = 22; // px of an axis with its ticks
    const STRIP = 5; // px of its row of tokens
    const MOST_LINES = 40_000; // all of 197 tokens, in some tens of ms; the view is full long before
    const LEFT = 34, BOTTOM = 15, TOP = 6, RIGHT = 8; // px around the histogram
    const SMALL = "11px";

    /* The page's colours, of its theme; of the two ramps 256 each. */
    function tones() {
        const greys = ["text", "muted", "faint", "line", "panel", "accent", "font"].map(name => [name, headscope.colour(`--${name}`)]);
        const ramp = name => {
            const all = Array.from({length: 256}, (_, level) => headscope.ramp(name, FLOOR + ((1 - FLOOR) * level) / 255));
            const packed = all.map(colour => {
                const [red, green, blue] = colour.match(/\d+/g).map(Number);
                return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
            });
            return {css: all, packed: Uint32Array.from(packed)};
        };
        return {...Object.fromEntries(greys), cls: ramp("--cls"), patch: ramp("--patch")};
    }

    /* Where tokens are along a side: prefix tokens as bands, then a gap, then the patches. */
    function along({first, tokens}, size) {
        const band = first ? Math.min(BAND, (size * MOST_BANDS) / first) : 0;
        const start = first ? first * band + GAP : 0;
        const cell = (size - start) / (tokens - first);
        const from = token => (token < first ? token * band : start + (token - first) * cell);
        const width = token => (token < first ? band : cell);
        return {
            start,
            from,
            width,
            centre: token => from(token) + width(token) / 2,
            at: place => {
                if (place < start) {
                    return Math.min(first - 1, Math.max(0, Math.floor(place / band)));
                }
                return Math.min(tokens - 1, first + Math.floor((place - start) / cell));
            },
        };
    }

    function canvas(width, height, fill) {
        const made = Object.assign(document.createElement("canvas"), {width: Math.max(1, Math.round(width)), height: Math.max(1, Math.round(height))});
        const brush = made.getContext("2d");
        const image = brush.createImageData(made.width, made.height);
        fill(new Uint32Array(image.data.buffer), made.width, made.height);
        brush.putImageData(image, 0, 0);
        return made;
    }

    const tone = ({head, tones}, cell, form) => tones[head.isPrefixCell(cell) ? "cls" : "patch"][form][head.level(cell)];

    function write(brush, tones, text, x, y, {colour = tones.muted, align = "left", size = SMALL} = {}) {
        brush.font = `${size} ${tones.font}`;
        brush.fillStyle = colour;
        brush.textAlign = align;
        brush.fillText(text, x, y);
    }

    /* --- two axes --- */

    function paintAxes(brush, {head, tones}, width, height) {
        const side = along(head, width);
        const [rows, columns] = head.grid;
        const rowWidth = columns * side.width(head.first);
        const every = Math.max(1, Math.ceil(16 / rowWidth));
        const prefix = head.prefixName;
        for (const [strip, text] of [[EDGE - STRIP, EDGE - STRIP - 4], [height - EDGE, height - EDGE + STRIP + 11]]) {
            for (let token = 0; token < head.first; token++) {
                brush.fillStyle = token % 2 ? tones.line : tones.faint;
                brush.fillRect(side.from(token), strip, side.width(token), STRIP);
            }
            for (let row = 0; row < rows; row++) {
                brush.fillStyle = row % 2 ? tones.line : tones.faint;
                brush.fillRect(side.start + row * rowWidth, strip, rowWidth, STRIP);
            }
            let free = 0;
            if (prefix) {
                write(brush, tones, prefix, 0, text);
                free = brush.measureText(prefix).width + 4;
            }
            for (let row = 0; row < rows; row += every) {
                const [label, x] = [String(row), side.start + (row + 0.5) * rowWidth];
                if (x - 4 > free) {
                    write(brush, tones, label, x, text, {align: "center"});
                }
            }
        }
    }

    /* All lines at once, in pixels: where several cross one, the strongest is seen. A canvas strokes them ten times slower. */
    function linesImage(view, width, height, scale) {
        const {head, cut, tones} = view;
        const {order, tokens} = head;
        const side = along(head, width);
        const thick = Math.max(1, Math.round(scale));
        const ends = Float64Array.from({length: tokens}, (_, token) => side.centre(token) * scale - thick / 2);
        return canvas(width * scale, height * scale, (pixels, across, down) => {
            const stride = across + thick + 1; // so that a line at the edge does not go on in the next row
            // Of each pixel 2 · level, and 1 more if a prefix token is at an end; 0 is none.
            const marks = new Uint16Array(stride * (down + 1));
            for (let place = 0; place < Math.min(cut.count, MOST_LINES); place++) {
                const cell = order[place];
                const from = ends[Math.floor(cell / tokens)], to = ends[cell % tokens];
                const level = head.level(cell) + 1, kind = head.isPrefixCell(cell) ? 1 : 0;
                const full = (level << 1) | kind;
                const steps = Math.max(down, Math.ceil(Math.abs(to - from)));
                // Places in 1/65,536 of a pixel: whole numbers are what makes this fast.
                const right = ((to - from) / steps) * 65536 | 0, under = (down / steps) * 65536 | 0;
                let x = Math.max(0, from * 65536 | 0), y = 0;
                for (let step = 0; step < steps; step++, x += right, y += under) {
                    const at = (y >> 16) * stride + (x >> 16);
                    const late = (x >> 8) & 255;
                    const first = (((level * (256 - late)) >> 8) << 1) | kind;
                    const last = (((level * late) >> 8) << 1) | kind;
                    if (first > 1 && first > marks[at]) {
                        marks[at] = first;
                    }
                    for (let middle = at + 1; middle < at + thick; middle++) {
                        if (full > marks[middle]) {
                            marks[middle] = full;
                        }
                    }
                    if (last > 1 && last > marks[at + thick]) {
                        marks[at + thick] = last;
                    }
                }
            }
            for (let at = 0; at < pixels.length; at++) {
                const mark = marks[Math.floor(at / across) * stride + (at % across)];
                if (mark) {
                    pixels[at] = (mark & 1 ? tones.cls : tones.patch).packed[(mark >> 1) - 1];
                }
            }
        });
    }

    /* Lines of `cells`, one after the other, so that the last lies on top. */
    function strokeLines(brush, view, cells, width, height, thickness = 1) {
        const side = along(view.head, width);
        brush.lineWidth = thickness;
        for (const cell of cells) {
            brush.strokeStyle = tone(view, cell, "css");
            brush.beginPath();
            brush.moveTo(side.centre(Math.floor(cell / view.head.tokens)), EDGE);
            brush.lineTo(side.centre(cell % view.head.tokens), height - EDGE);
            brush.stroke();
        }
    }

    /* The lines of what is pointed at; of two tokens the one between them, drawn to be seen. */
    function strokeLit(brush, view, width, height) {
        const {head, lit, tones, cut} = view;
        const side = along(head, width);
        if (!lit.pair) {
            strokeLines(brush, view, head.cellsOf(lit, cut.code), width, height, 1.25);
        } else {
            const [from, to] = [side.centre(lit.query), side.centre(lit.key)];
            brush.strokeStyle = brush.fillStyle = tones.accent;
            brush.lineWidth = 2;
            brush.beginPath();
            brush.moveTo(from, EDGE);
            brush.lineTo(to, height - EDGE - 3);
            brush.stroke();
        }
        for (const [token, y] of [[lit.query, EDGE - STRIP], [lit.key, height - EDGE]]) {
            if (token !== undefined) {
                const span = Math.max(4, side.width(token));
                brush.fillStyle = tones.accent;
                brush.fillRect(side.centre(token) - span / 2, y - 1, span, STRIP + 2);
            }
        }
    }

    /* --- matrix --- */

    /* What is strong enough, in pixels; where several cells share one, the strongest is seen. */
    function matrixImage({head, cut, tones}, size) {
        const side = along(head, size);
        const start = Int32Array.from({length: head.tokens}, (_, token) => Math.round(side.from(token)));
        const end = start.map((at, token) => Math.max(at + 1, Math.round(side.from(token) + side.width(token))));
        return canvas(size, size, (pixels, across) => {
            for (let place = 0; place < cut.count; place++) {
                const cell = head.order[place];
                const [query, key] = [Math.floor(cell / head.tokens), cell % head.tokens];
                const colour = tones[head.isPrefixCell(cell) ? "cls" : "patch"].packed[head.level(cell)];
                for (let y = start[query]; y < end[query] && y < across; y++) {
                    for (let x = start[key]; x < end[key] && x < across; x++) {
                        pixels[y * across + x] ||= colour;
                    }
                }
            }
        });
    }

    /* The row and the column of what is pointed at. */
    function paintCross(brush, {head, lit, tones}, size) {
        const side = along(head, size);
        const frame = (dashes, ...box) => {
            brush.strokeStyle = tones.accent;
            brush.lineWidth = 1.25;
            brush.setLineDash(dashes);
            brush.strokeRect(...box);
        };
        if (lit.query !== undefined) {
            frame([], 0.5, side.from(lit.query) - 0.5, size - 1, Math.max(2, side.width(lit.query)) + 1);
        }
        if (lit.key !== undefined) {
            frame(lit.pair ? [3, 2] : [], side.from(lit.key) - 0.5, 0.5, Math.max(2, side.width(lit.key)) + 1, size - 1);
        }
        brush.setLineDash([]);
    }

    /* --- masks --- */

    /* One picture: its mask, and the patches that are pointed at. Returns the mask's strongest value, null without one. */
    function paintMask(brush, kind, {head, lit, shown, tones}, width, height) {
        const [rows, columns] = head.grid;
        const token = kind === "picture" ? undefined : shown[kind];
        const values = token === undefined ? null : token === null ? head.mean : head.overPatches(token, kind);
        const strongest = values && values.reduce((a, b) => Math.max(a, b), 0);
        if (values) {
            const mask = canvas(columns, rows, pixels =>
                values.forEach((value, patch) => {
                    pixels[patch] = ((Math.round(255 * VEIL * (1 - Math.sqrt(value / (strongest || 1)))) << 24) | GREY) >>> 0;
                }),
            );
            brush.imageSmoothingEnabled = false;
            brush.drawImage(mask, 0, 0, width, height);
        }
        const outline = (which, dashes) => {
            if (which === undefined || head.isPrefix(which)) {
                return;
            }
            const [row, column] = head.place(which);
            const [wide, high] = [width / columns, height / rows];
            // White or black beneath, so that it is seen on any photo.
            for (const [colour, thick, dash] of [["rgba(0, 0, 0, 0.75)", 4, []], [dashes.length ? "#ffffff" : tones.accent, 2, []], [tones.accent, 2, dashes]]) {
                brush.strokeStyle = colour;
                brush.lineWidth = thick;
                brush.setLineDash(dash);
                brush.strokeRect(column * wide, row * high, wide, high);
            }
            brush.setLineDash([]);
        };
        if (lit) {
            outline(lit.pair ? lit.key : undefined, [3, 3]);
            outline(lit.pair ? lit.query : lit.token, []);
        }
        return strongest;
    }

    /* What a picture shows, and more of it for a tooltip. */
    function caption(kind, {head, shown, lit}) {
        const token = shown[kind];
        const named = which => (which === null ? "mean" : head.short(which));
        const others = which => (which === null || head.isPrefix(which) ? "patches" : "all");
        switch (kind) {
            case "picture":
                return lit?.pair ? `${head.short(lit.query)} → ${head.short(lit.key)}` : head.isPrefix(shown.target ?? Infinity) ? head.prefix[shown.target] : shown.target === null ? "mean" : `patch ${named(shown.target)}`;
            case "source":
                return token === undefined ? "" : `${others(token)} → ${named(token)}`;
            default:
                return `${named(token)} → ${others(token)}`;
        }
    }

    /* --- histogram --- */

    /* Powers of ten; where there are few, their double and fivefold too, or what divides a short axis evenly. */
    function ticksBetween(least, most) {
        const decades = Math.log10(most / least);
        if (decades < 0.8) {
            const span = (most - least) / 3;
            const unit = 10 ** Math.floor(Math.log10(span));
            const step = unit * [1, 2, 5, 10].find(times => unit * times >= span);
            return Array.from({length: 5}, (_, tick) => (Math.ceil(least / step) + tick) * step).filter(value => value <= most);
        }
        const found = [];
        for (let power = Math.floor(Math.log10(least)); power <= Math.ceil(Math.log10(most)); power++) {
            found.push(...(decades > 2.5 ? [1] : [1, 2, 5]).map(times => Number(`${times}e${power}`)));
        }
        return found.filter(value => value >= least && value <= most);
    }

    /* The largest of 1, 2, 5, 10, 20 … that is no larger. */
    function niceBelow(count) {
        const unit = 10 ** Math.floor(Math.log10(Math.max(1, count)));
        return unit * [5, 2, 1].find(times => unit * times <= Math.max(1, count));
    }

    const SUPERSCRIPT = {"-": "⁻", ...Object.fromEntries([..."⁰¹²³⁴⁵⁶⁷⁸⁹"].map((sign, digit) => [digit, sign]))};
    const power = value => `10${[...String(Math.round(Math.log10(value)))].map(sign => SUPERSCRIPT[sign]).join("")}`;

    function plotOf(width, height) {
        return {left: LEFT, top: TOP, width: width - LEFT - RIGHT, height: height - TOP - BOTTOM};
    }

    function paintHistogram(brush, {head, cut, tones}, width, height) {
        const {counts, least, most, below, place} = head.histogram;
        const plot = plotOf(width, height);
        const base = plot.top + plot.height;
        const tallest = counts.reduce((a, b) => Math.max(a, b), 1);
        const high = count => plot.height * Math.sqrt(count / tallest);
        const at = plot.left + plot.width * place(cut.number);
        const bar = plot.width / counts.length;
        counts.forEach((count, bin) => {
            const [from, to] = [plot.left + bin * bar, plot.left + (bin + 1) * bar - 0.5];
            const tall = count ? Math.max(1, high(count)) : 0;
            brush.fillStyle = tones.line;
            brush.fillRect(from, base - tall, Math.max(0, Math.min(to, at) - from), tall);
            brush.fillStyle = tones.muted;
            brush.fillRect(Math.max(from, at), base - tall, Math.max(0, to - Math.max(from, at)), tall);
        });
        brush.fillStyle = tones.faint;
        brush.fillRect(plot.left, base, plot.width, 1);
        for (const count of [niceBelow(tallest), niceBelow(tallest / 4)]) {
            const y = base - high(count);
            brush.fillRect(plot.left - 3, y, 3, 1);
            write(brush, tones, count < 1000 ? String(count) : `${count / 1000}k`, plot.left - 5, y + 4, {align: "right", size: "10px"});
            brush.fillStyle = tones.faint;
        }
        const powersOnly = most / least > 10 ** 2.5;
        let free = -Infinity;
        for (const value of ticksBetween(least, most)) {
            const x = plot.left + plot.width * place(value);
            const number = powersOnly ? (value === 1 ? "1" : power(value)) : headscope.number(value);
            const text = below && value === least ? `≤ ${number}` : number;
            brush.font = `10px ${tones.font}`;
            const half = brush.measureText(text).width / 2;
            brush.fillStyle = tones.faint;
            brush.fillRect(x, base, 1, 3);
            if (x - half > free && x + half < width) {
                write(brush, tones, text, x, base + 13, {align: "center", size: "10px"});
                free = x + half + 6;
            }
        }
    }

    /* What gives back the tokens' place for the pointer, and the plot's for the slider. */
    Object.assign(window.headAttention, {
        EDGE,
        MOST_LINES,
        along,
        caption,
        linesImage,
        matrixImage,
        paintAxes,
        paintCross,
        paintHistogram,
        paintMask,
        plotOf,
        strokeLines,
        strokeLit,
        tones,
        write,
    });
})();
