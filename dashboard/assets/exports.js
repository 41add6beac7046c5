/* How does a view leave the page? The menu of a panel, its ⓘ, and pictures for print, made of what is on the screen.

   A picture is SVG: the drawing, over it the panel's title and how to read it, and under it a caption that tells what
   it is of. PNG has three pixels for each of the screen's. Numbers, lines and captions come from the server, for the
   selection in the address. */
(() => {
    const SHARP = 3; // pixels of a PNG for one of the screen
    const LEAST = 480; // px that a picture is wide: a small one is painted larger, a graph stretched up to twice
    const EDGE = 12; // around it
    const LINE = 16; // of the words
    const SMALL = 11; // their font
    const MOST_POINTS = 20000; // of a WebGL trace that leave as shapes; more would make a file that nothing opens
    const TOLD = 8000; // ms that an error stays
    // What an element of an overlay looks like: style sheets and variables do not leave with it.
    const LOOKS = [
        "fill", "fill-opacity", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray", "stroke-linecap",
        "stroke-linejoin", "opacity", "display", "visibility", "paint-order", "font-family", "font-size", "font-weight",
        "text-anchor", "dominant-baseline", "image-rendering", "mix-blend-mode",
    ];
    const SVG = "http://www.w3.org/2000/svg";
    // What a view can leave as: the word in the menu, and what it is.
    const FORMS = {
        svg: ["SVG", "vector picture"], png: ["PNG", "picture for print"],
        csv: ["CSV", "numbers"], py: ["Python", "lines that give the numbers"],
    };
    const {svg: element, colour} = headscope;

    /* --- what is told --- */

    let hiding;

    function tell(text, stays = TOLD) {
        const toast = document.getElementById("export-toast");
        clearTimeout(hiding);
        toast.textContent = text;
        if (text) {
            hiding = setTimeout(() => tell(""), stays);
        }
    }

    /* What the server says of an export; an Error with its words, where it cannot. */
    async function asked(path, signal) {
        let answer;
        try {
            answer = await fetch(path, {signal});
        } catch {
            throw new Error("the server does not answer; try again when it is back");
        }
        if (!answer.ok) {
            throw new Error(await answer.text());
        }
        return answer;
    }

    const address = (name, form) => `/export/${name}.${form}${location.search}`;

    /* --- the drawing: {width, height, svg} or, of a canvas, {width, height, svg, canvas(scale)} --- */

    function drawing(picture, panel, figure) {
        const [kind, name] = picture.split(":");
        switch (kind) {
            case "graph": return graph(name);
            case "canvas": return canvas(name, panel);
            case "figure": return plotted(figure.data, figure.layout, figure.layout);
        }
        throw new Error(`${picture} is no picture: it should be graph:ID, canvas:NAME or figure`);
    }

    /* A figure as SVG, at that size, without a background of its own. */
    async function plotted(data, layout, {width = 720, height = 400}) {
        const clear = {paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", width, height, autosize: false};
        const few = trace => trace.type === "scattergl" && count(trace.x) <= MOST_POINTS;
        const figure = {
            data: data.map(trace => few(trace) ? {...trace, type: "scatter"} : trace),
            layout: {...layout, ...clear},
            config: {plotGlPixelRatio: SHARP},
        };
        const made = await Plotly.toImage(figure, {format: "svg", width, height});
        const text = decodeURIComponent(made.slice(made.indexOf(",") + 1));
        return {width, height, svg: new DOMParser().parseFromString(text, "image/svg+xml").documentElement};
    }

    /* How many numbers a list, a typed array or a sent one has. */
    function count(values) {
        return values?.bdata ? values.bdata.length * 0.75 / Number(values.dtype.at(-1)) : values?.length ?? 0;
    }

    /* A graph as it is on the screen, with the overlays that lie over it. */
    async function graph(id) {
        const gd = document.querySelector(`#${CSS.escape(id)} .js-plotly-plot`);
        if (!gd?._fullLayout) {
            throw new Error("this view has no picture yet; wait until it is drawn");
        }
        const made = await plotted(gd.data, gd.layout, gd._fullLayout);
        const at = gd.getBoundingClientRect();
        for (const overlay of gd.parentNode.querySelectorAll(":scope > svg.overlay")) {
            const place = overlay.getBoundingClientRect();
            const copy = withLooks(overlay);
            const places = {x: place.left - at.left, y: place.top - at.top, width: place.width, height: place.height};
            Object.entries(places).forEach(([name, value]) => copy.setAttribute(name, value));
            made.svg.append(copy);
        }
        return made;
    }

    /* A copy of what is on the screen that looks the same without the page's style sheets. */
    function withLooks(shown) {
        const copy = shown.cloneNode(true);
        const copies = [copy, ...copy.querySelectorAll("*")];
        [shown, ...shown.querySelectorAll("*")].forEach((each, at) => {
            const style = getComputedStyle(each);
            const looks = LOOKS.map(name => [name, style.getPropertyValue(name)]).filter(([, value]) => value);
            copies[at].setAttribute("style", looks.map(([name, value]) => `${name}:${value}`).join(";"));
            ["class", ...LOOKS].forEach(name => copies[at].removeAttribute(name));
        });
        return copy;
    }

    /* What headscope.painters[name] paints, as large as the element of that id, or as the panel's body. */
    function canvas(name, panel) {
        const painter = headscope.painters[name];
        if (!painter) {
            throw new Error(`nothing paints ${name}; reload the page`);
        }
        const shown = document.getElementById(name) ?? panel.querySelector(".body");
        const width = Math.round(Math.max(LEAST, shown.clientWidth));
        const height = Math.round(shown.clientHeight * width / shown.clientWidth);
        const recorded = recorder(width, height);
        painter(recorded, width, height);
        return {
            width,
            height,
            svg: recorded.getSvg(),
            canvas(scale) {
                const sharp = sheetOf(width * scale, height * scale), context = sharp.getContext("2d");
                context.scale(scale, scale);
                painter(context, width, height);
                return sharp;
            },
        };
    }

    const sheetOf = (width, height) => Object.assign(document.createElement("canvas"), {width, height});

    /* svgcanvas, with pixels that stay pixels where the painter asks for that. */
    function recorder(width, height) {
        const made = new svgcanvas.Context({width, height});
        const drawImage = made.drawImage.bind(made);
        made.drawImage = (...of) => {
            const before = new Set(made.getSvg().querySelectorAll("image"));
            drawImage(...of);
            for (const image of made.imageSmoothingEnabled === false ? made.getSvg().querySelectorAll("image") : []) {
                before.has(image) || image.setAttribute("style", "image-rendering:pixelated");
            }
        };
        return made;
    }

    /* --- the picture: a drawing in its frame --- */

    /* An SVG of the drawing among its words, and where in it the drawing is. */
    function framed({width: drawn, height, svg, canvas}, {title, reading, caption}) {
        const font = getComputedStyle(document.body).fontFamily;
        const scale = canvas ? 1 : Math.min(2, Math.max(1, LEAST / drawn));
        const width = Math.max(LEAST, drawn * scale);
        const [read, said] = [reading, caption].map(words => wrapped(words, width, `${SMALL}px ${font}`));
        const top = EDGE + LINE * (1 + read.length) + 8, bottom = top + height * scale + 8;
        const whole = {width: width + 2 * EDGE, height: bottom + LINE * said.length + EDGE};
        const text = (words, y, looks) => element("text", {x: EDGE, y, "font-family": font, ...looks}, words);
        const quiet = {"font-size": SMALL, fill: colour("--muted")};
        const small = (lines, from) => lines.map((line, at) => text(line, from + LINE * (at + 0.75), quiet));
        const frame = element("svg", {xmlns: SVG, ...whole, viewBox: `0 0 ${whole.width} ${whole.height}`});
        frame.append(
            element("title", {}, title),
            element("desc", {}, `${caption} · ${location.search}`),
            element("rect", {...whole, fill: colour("--panel")}),
            text(title, EDGE + 13, {"font-size": 15, "font-weight": 600, fill: colour("--text")}),
            ...small(read, EDGE + LINE + 2),
            ...small(said, bottom),
        );
        if (svg) {
            const place = {x: EDGE, y: top, width: drawn * scale, height: height * scale, viewBox: `0 0 ${drawn} ${height}`};
            Object.entries({...place, overflow: "hidden"}).forEach(([name, value]) => svg.setAttribute(name, value));
            frame.append(svg);
        }
        return {frame, top, ...whole};
    }

    /* Words in lines that fit: broken between the parts of a caption, else between words, else within one. */
    function wrapped(words, width, font) {
        const pen = sheetOf(1, 1).getContext("2d");
        pen.font = font;
        const fits = text => pen.measureText(text.trimEnd()).width <= width;
        const pieces = [/(?<= · )/, /(?<=\s)/, /(?<=\S{40})/].reduce(
            (parts, between) => parts.flatMap(part => fits(part) ? [part] : part.split(between)),
            words ? [words] : [],
        );
        const lines = [];
        for (const piece of pieces) {
            lines.push(lines.length && fits(lines.at(-1) + piece) ? lines.pop() + piece : piece);
        }
        return lines.map(line => line.trim().replace(/ ·$/, ""));
    }

    /* The SVG as a file, its pictures in it. */
    async function vector(frame) {
        await Promise.all([...frame.querySelectorAll("image")].map(async image => {
            const source = image.getAttribute("href") ?? image.getAttributeNS("http://www.w3.org/1999/xlink", "href");
            if (source && !source.startsWith("data:")) {
                image.removeAttributeNS("http://www.w3.org/1999/xlink", "href");
                image.setAttribute("href", await inlined(source));
            }
        }));
        return new Blob([new XMLSerializer().serializeToString(frame)], {type: "image/svg+xml"});
    }

    async function inlined(source) {
        const bytes = await (await asked(source)).blob();
        return new Promise((resolve, reject) => {
            const reader = new FileReader();
            reader.onload = () => resolve(reader.result);
            reader.onerror = () => reject(new Error(`${source} cannot be read`));
            reader.readAsDataURL(bytes);
        });
    }

    /* The same in pixels. What was painted is painted again, finer. */
    async function pixels(drawn, words) {
        const {frame, top, width, height} = framed(drawn.canvas ? {...drawn, svg: null} : drawn, words);
        const sheet = sheetOf(width * SHARP, height * SHARP), context = sheet.getContext("2d");
        const url = URL.createObjectURL(await vector(frame));
        try {
            const image = new Image();
            image.src = url;
            await image.decode();
            context.drawImage(image, 0, 0, sheet.width, sheet.height);
        } finally {
            URL.revokeObjectURL(url);
        }
        if (drawn.canvas) {
            context.drawImage(drawn.canvas(SHARP), EDGE * SHARP, top * SHARP);
        }
        const file = await new Promise(done => sheet.toBlob(done, "image/png"));
        if (!file) {
            throw new Error("the picture is too large for this browser; make the panel smaller, or take SVG");
        }
        return file;
    }

    /* --- what leaves --- */

    function save(file, name) {
        const link = Object.assign(document.createElement("a"), {href: URL.createObjectURL(file), download: name});
        link.click();
        setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    }

    async function picture({name, picture, as, title, panel}) {
        const {file, caption, figure} = await (await asked(address(name, "json"))).json();
        const drawn = await drawing(picture, panel, figure);
        const alone = ofPanel(panel.dataset.panel).length === 1; // of several, the line may be about another
        const words = {title, reading: alone ? panel.querySelector(".reading").textContent : "", caption};
        save(as === "svg" ? await vector(framed(drawn, words).frame) : await pixels(drawn, words), `${file}.${as}`);
    }

    async function numbers({name}) {
        const answer = await asked(address(name, "csv"));
        const [, file] = answer.headers.get("Content-Disposition").match(/filename="?([^";]+)/);
        save(await answer.blob(), file);
    }

    let awaited = null; // AbortController of the lines that are fetched, until Escape takes them back

    async function lines({name, title}) {
        awaited?.abort();
        const mine = awaited = new AbortController();
        let text;
        try {
            text = await (await asked(address(name, "py"), mine.signal)).text();
        } catch (error) {
            if (!mine.signal.aborted) {
                throw error;
            }
        } finally {
            awaited = awaited === mine ? null : awaited;
        }
        if (mine.signal.aborted) {
            return; // a dialog that nobody waits for any more would lie over the page
        }
        shown("python-lines-text", {children: "```python\n" + text.trimEnd() + "\n```"});
        document.getElementById("python-lines-said").textContent =
            `They give the numbers of “${title}” as they are now, from the study alone: columns by name, in the variable `
            + "numbers. Run them where Headscope is installed, in the folder that has data/ (or with HEADSCOPE_DATA set).";
        document.getElementById("python-lines-copy").onclick = event => copy(text, event.target);
        document.getElementById("python-lines").showModal();
    }

    /* Markdown, in the place of that id. */
    function shown(id, props) {
        window.dash_clientside.set_props(id, {children: {type: "Markdown", namespace: "dash_core_components", props}});
    }

    async function copy(text, button) {
        const dialog = document.getElementById("python-lines");
        if (navigator.clipboard) { // only of a page that came by https or from this machine
            await navigator.clipboard.writeText(text);
        } else {
            const field = Object.assign(document.createElement("textarea"), {value: text});
            dialog.append(field);
            field.select();
            document.execCommand("copy");
            field.remove();
        }
        button.textContent = "copied";
        setTimeout(() => { button.textContent = "copy"; }, 1500);
    }

    async function leave(wanted) {
        const slow = setTimeout(() => tell("making it …", 600000), 200);
        try {
            await {svg: picture, png: picture, csv: numbers, py: lines}[wanted.as](wanted);
            tell("");
        } catch (error) {
            tell(`${wanted.title}: ${error.message}`);
        } finally {
            clearTimeout(slow);
        }
    }

    /* --- menus and cards: popovers, which a click elsewhere and Esc close --- */

    const ofPanel = name => JSON.parse(menu().dataset.exports).filter(each => each.panel === name);
    const menu = () => document.getElementById("export-menu");

    /* Fills the menu with what can be done with a panel. Tab goes past it; the arrow keys go through it. */
    function offer(panel) {
        const {panel: name} = panel.dataset, title = panel.ariaLabel;
        const item = (text, label, data) => {
            const button = Object.assign(document.createElement("button"), {textContent: text, tabIndex: -1});
            Object.assign(button, {role: "menuitem", ariaLabel: label});
            Object.assign(button.dataset, data);
            return button;
        };
        const row = (role, ...parts) => {
            const made = Object.assign(document.createElement("div"), {role});
            made.append(...parts);
            return made;
        };
        const large = headscope.selection?.large === name;
        const [sign, word] = large ? ["⤡", "Make small"] : ["⤢", "Enlarge"];
        const rows = ofPanel(name).map(({name, label, picture}) => {
            const data = {export: name, picture, title: label === title ? title : `${title}: ${label}`};
            const said = Object.assign(document.createElement("span"), {textContent: label, ariaHidden: "true"});
            const forms = Object.entries(FORMS).map(
                ([as, [short, what]]) => item(short, `${label}: ${what}, ${short}`, {...data, as}),
            );
            return Object.assign(row("group", said, ...forms), {ariaLabel: label});
        });
        menu().replaceChildren(row("none", item(`${sign} ${word}`, `${word} ${title}`, {enlarge: name})), ...rows);
        menu().ariaLabel = `Export and enlarge ${title}`;
    }

    let opener; // of the one that is open
    let pressed; // what was open when the pointer went down, which closes it

    function open(button, popover) {
        popover.popover = "auto";
        popover.showPopover();
        const place = () => {
            const at = button.getBoundingClientRect(), {offsetWidth: width, offsetHeight: height} = popover;
            const below = at.bottom + 4 + height <= innerHeight || at.top < innerHeight / 2;
            const top = below ? Math.min(at.bottom + 4, innerHeight - height - 8) : at.top - height - 4;
            popover.style.left = `${Math.max(8, Math.min(at.right - width, innerWidth - width - 8))}px`;
            popover.style.top = `${Math.max(8, top)}px`;
        };
        place();
        const resized = new ResizeObserver(place); // equations may come when it is open already
        resized.observe(popover);
        opener = button;
        button.setAttribute("aria-expanded", "true");
        popover.addEventListener("beforetoggle", () => {
            resized.disconnect();
            button.setAttribute("aria-expanded", "false");
        }, {once: true});
        (popover.querySelector("[role=menuitem]") ?? popover).focus();
    }

    let prepared = {}; // the card's text, asked for when the pointer comes near: equations take a moment

    function prepare(button) {
        const panel = button.dataset.about, card = document.getElementById("about-card");
        if (prepared.panel !== panel && !card.matches(":popover-open")) {
            prepared = {panel, done: explain(button, card)};
        }
        return prepared.done;
    }

    async function explain(button, card) {
        const text = await (await asked(`/about/${button.dataset.about}.md`)).text();
        shown("about-card", {children: `### ${button.closest(".panel").ariaLabel}\n${text}`, mathjax: true});
        await settled(card);
    }

    async function about(button) {
        const card = document.getElementById("about-card");
        card.matches(":popover-open") && card.hidePopover();
        try {
            await prepare(button);
            open(button, card);
        } catch (error) {
            prepared = {};
            tell(error.message);
        }
    }

    /* Its text is there, equations too: it is placed by its size. */
    function settled(card) {
        return new Promise(done => {
            const watch = new MutationObserver(() => { clearTimeout(quiet); quiet = setTimeout(end, 60); });
            let quiet = setTimeout(end, 400);
            function end() { watch.disconnect(); done(); }
            watch.observe(card, {childList: true, subtree: true});
        });
    }

    document.addEventListener("pointerover", event => {
        const button = event.target.closest?.("[data-about]");
        button && prepare(button).catch(() => { prepared = {}; }); // told when it is opened
    });

    addEventListener("pointerdown", () => {
        pressed = document.querySelector(":popover-open") ? opener : null;
    }, true);

    addEventListener("keydown", event => {
        pressed = null;
        if (event.key === "Escape" && awaited && !document.querySelector(":popover-open")) {
            awaited.abort();
            event.preventDefault(); // the selection stays
        }
    }, true);

    document.addEventListener("click", event => {
        const button = event.target.closest?.("[data-menu], [data-about], [data-enlarge], [data-export]");
        if (!button) {
            return;
        }
        const {menu: wanted, about: explained, enlarge, export: name, as, picture, title} = button.dataset;
        if (wanted) {
            if (pressed !== button) {
                offer(button.closest(".panel"));
                open(button, menu());
            }
        } else if (explained) {
            pressed === button || about(button);
        } else {
            menu().hidePopover();
            opener.focus();
            const panel = opener.closest(".panel");
            enlarge ? headscope.gesture("large", enlarge) : leave({name, as, picture, title, panel});
        }
    });

    /* Keys of a menu, a card and the dialog are theirs: they must not move heads. */
    document.addEventListener("keydown", event => {
        const inside = event.target.closest?.(".export-menu, .about-card, .python-lines");
        if (!inside) {
            return;
        }
        event.stopPropagation();
        if (inside.matches(".export-menu")) {
            walk(inside, event);
        }
    });

    /* ↑ ↓ go from row to row, ← → along a row and on into the next; Home and End to the ends; Tab leaves. */
    function walk(menu, event) {
        const items = [...menu.querySelectorAll("[role=menuitem]")], at = items.indexOf(document.activeElement);
        const rows = [...menu.children].map(row => [...row.querySelectorAll("[role=menuitem]")]);
        const row = rows.findIndex(each => each.includes(items[at]));
        const beside = step => items.at((at + step) % items.length);
        const under = step => {
            const next = rows.at((row + step) % rows.length);
            return next[Math.min(rows[row].indexOf(items[at]), next.length - 1)];
        };
        const moves = {
            ArrowRight: () => beside(1), ArrowLeft: () => beside(-1),
            ArrowDown: () => under(1), ArrowUp: () => under(-1),
            Home: () => items[0], End: () => items.at(-1),
        };
        if (event.key in moves) {
            event.preventDefault();
            moves[event.key]().focus();
        } else if (event.key === "Tab") {
            event.preventDefault();
            menu.hidePopover();
            opener.focus();
        }
    }

    // A click beside the dialog, or on its ✕, closes it.
    document.addEventListener("click", event => {
        if (event.target.id === "python-lines" || event.target.id === "python-lines-close") {
            document.getElementById("python-lines").close();
        }
    });

    addEventListener("resize", () => document.querySelector(":popover-open")?.hidePopover());
})();
