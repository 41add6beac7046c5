/* What do all views share in the browser? The selection as it is, gestures that change it, and overlays on graphs.

   headscope.selection, headscope.index (of its image, or null) and headscope.facts (of its study) are the latest. */
window.headscope = (() => {
    const listeners = [];
    const told = {}; // listeners, by name
    const late = []; // what waits until the views are drawn
    const held = new Set(); // promises of views that are still being drawn
    const colours = new Map(); // by theme and name
    const shared = {
        NOTICED: 200, // ms, from which on a wait is shown
        selection: null,
        index: null,
        facts: null,
        painters: {}, // by name: (context, width, height) paints what a canvas shows, to be exported

        /* Calls with (selection, index, facts) now, if there is one, and after each change. */
        onSelection(listener) {
            listeners.push(listener);
            if (shared.selection) {
                listener(shared.selection, shared.index, shared.facts);
            }
        },

        /* Calls with what the server tells of that name, when it is something else. */
        onTold(name, listener) {
            told[name] = listener;
        },

        /* Calls once the views have drawn what is selected and it is painted: what may wait does not slow them. */
        afterDrawn(then) {
            if (shared.drawn()) {
                then();
            } else {
                late.push(then);
            }
        },

        /* Until the promise is settled, the views are not drawn. */
        hold(promise) {
            held.add(promise);
            promise.finally(() => held.delete(promise));
        },

        /* Whether the views have drawn what is selected, and no gesture waits. */
        drawn: () => sentAt === -Infinity && waiting.length === 0 && held.size === 0 && shared.selection !== null && address === null,

        label: (layer, head) => `L${layer}·H${head}`,

        /* Three significant figures, as words.number. */
        number(value) {
            if (!Number.isFinite(value)) {
                return "–";
            }
            const small = value !== 0 && !(Math.abs(value) >= 1e-3 && Math.abs(value) < 1e4);
            const text = value === 0 ? "0" : small ? value.toExponential(1).replace("e+", "e") : value.toFixed(Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value)))));
            return text.replaceAll("-", "\u2212");
        },

        /* A colour, or the colours of a ramp, of theme.py. Asking the browser makes it lay the page out: once a theme. */
        colour(name) {
            const key = `${document.documentElement.dataset.bsTheme} ${name}`;
            if (!colours.has(key)) {
                colours.set(key, getComputedStyle(document.documentElement).getPropertyValue(name).trim());
            }
            return colours.get(key);
        },

        /* The colour at 0 … 1 of a ramp. */
        ramp(name, share) {
            const steps = shared.colour(name).split(",");
            const place = Math.min(1, Math.max(0, share)) * (steps.length - 1);
            const low = Math.min(steps.length - 2, Math.floor(place));
            const parts = colour => [1, 3, 5].map(at => parseInt(colour.slice(at, at + 2), 16));
            const [from, to] = [parts(steps[low]), parts(steps[low + 1])];
            return `rgb(${from.map((value, at) => Math.round(value + (to[at] - value) * (place - low))).join(", ")})`;
        },

        /* An element; those of a drawing are made by svg. */
        element(tag, attributes = {}, ...children) {
            const made = document.createElement(tag);
            for (const [name, value] of Object.entries(attributes)) {
                made.setAttribute(name, value);
            }
            made.append(...children);
            return made;
        },

        svg(tag, attributes = {}, ...children) {
            const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
            for (const [name, value] of Object.entries(attributes)) {
                made.setAttribute(name, value);
            }
            made.append(...children);
            return made;
        },

        overlay,
        gesture,
        caption,
        watch,
    };

    /* What a tooltip shows of an image, as Dash takes it: its picture, lines of [class, text], and what is known of it. */
    async function caption(image, first = []) {
        const answer = await fetch(`${shared.facts.pictures}/image/${image}.json`);
        const said = answer.ok ? await answer.json() : {id: await answer.text()};
        const part = (type, props) => ({type, namespace: "dash_html_components", props});
        const verdict = !said.true ? "" : said.true === said.predicted ? "✓ " : "✕ ";
        const predicted = said.predicted && `${verdict}predicted ${said.predicted}, ${said.probability}`;
        const lines = [...first, ["id", said.id], ["true", said.true], ["predicted", predicted]]
            .filter(([, text]) => text)
            .map(([className, children]) => part("Div", {className, children}));
        const picture = part("Img", {src: `${shared.facts.pictures}/thumbnail/${image}.webp`, alt: ""});
        return [picture, part("Div", {children: lines})];
    }

    /* --- gestures: sent together, once the page has drawn what was asked before --- */

    const PATIENCE = 3000; // ms; a server that does not answer must not silence the page
    const MOST = 1000;
    let waiting = [];
    let sent = 0;
    let sentAt = -Infinity; // when; -Infinity: the page is settled
    let selected = ""; // as JSON, of which study
    let address = null; // that is not written yet

    function send() {
        if (waiting.length && performance.now() - sentAt > PATIENCE) {
            sentAt = performance.now();
            window.dash_clientside.set_props("gestures", {data: {gestures: waiting.splice(0, MOST), n: ++sent}});
        }
    }

    /* Asks for a change of the selection: dashboard/writer.py lists the kinds. */
    function gesture(kind, value) {
        waiting.push({kind, value});
        send();
    }

    /* A click on what has data-gesture is that gesture, of data-value. */
    addEventListener("click", event => {
        const made = event.target.closest?.("[data-gesture]");
        if (made && !made.disabled) {
            gesture(made.dataset.gesture, JSON.parse(made.dataset.value ?? "null"));
        }
    });

    // A double click on a panel's title opens it, and closes it again.
    addEventListener("dblclick", event => {
        const header = event.target.closest?.(".stage .panel > header");
        if (header && !event.target.closest("button, input, select, a")) {
            gesture("large", header.parentElement.dataset.panel);
        }
    });

    /* --- overlays --- */

    /* An <svg> over the plot area of a Plotly graph. `paint(svg, at)` fills it: it is called after each drawing of the
       graph, while it is zoomed or moved, and by repaint() of what this returns. What is in it stays until the next
       call; it takes no pointer events unless a child asks for them.
       at: x(value), y(value) give pixels in the svg, toX(pixel), toY(pixel) values; width, height; gd is the graph. */
    function overlay(graph, paint) {
        let gd;
        const svg = shared.svg("svg", {class: "overlay", "data-graph": graph});

        function repaint() {
            const layout = gd?._fullLayout;
            if (!shared.selection || !layout?.xaxis || !layout._size || !layout.xaxis.d2p) {
                return;
            }
            const {xaxis, yaxis, _size: size} = layout;
            Object.assign(svg.style, {left: `${size.l}px`, top: `${size.t}px`, width: `${size.w}px`, height: `${size.h}px`});
            paint(svg, {
                x: value => xaxis.d2p(value),
                y: value => yaxis.d2p(value),
                toX: pixel => xaxis.p2d(pixel),
                toY: pixel => yaxis.p2d(pixel),
                width: size.w,
                height: size.h,
                gd,
            });
        }

        function attach() {
            gd = document.querySelector(`#${graph} .js-plotly-plot`);
            if (!gd?._fullLayout || !gd.on) {
                setTimeout(attach, 50);
                return;
            }
            gd.after(svg);
            for (const event of ["plotly_afterplot", "plotly_relayouting", "plotly_relayout"]) {
                gd.on(event, repaint);
            }
            repaint();
        }

        attach();
        return {repaint, svg};
    }

    /* --- that views are being drawn, once that is long enough to be noticed --- */

    /* Called once the page is there. Dash marks what an answer will fill, and one answer fills all views: one tells. */
    function watch() {
        const stage = document.getElementById("stage"), written = document.getElementById("written");
        let timer;
        const look = () => {
            const works = written.hasAttribute("data-dash-is-loading");
            clearTimeout(timer);
            timer = works && setTimeout(() => stage.classList.add("working"), shared.NOTICED);
            works || stage.classList.remove("working");
        };
        new MutationObserver(look).observe(written, {attributeFilter: ["data-dash-is-loading"]});
        look();
    }

    /* --- what is picked --- */

    /* Presses the buttons of what is picked; those of values that the study lacks are disabled and say why. */
    function press() {
        for (const button of document.querySelectorAll("[data-gesture=choice]")) {
            const [field, value] = JSON.parse(button.dataset.value);
            const picked = String(shared.selection[field]) === value;
            const why = shared.facts.lacks[field]?.[value];
            button.classList.toggle("on", picked);
            button.setAttribute("aria-pressed", picked);
            button.disabled = Boolean(why);
            button.title = why ?? "";
        }
    }

    function select({selection, content, index, facts}) {
        const now = JSON.stringify([content, selection]);
        if (now === selected) {
            return;
        }
        selected = now;
        const root = document.documentElement.dataset;
        Object.assign(shared, {selection, index, facts});
        root.bsTheme = selection.theme;
        root.tab = selection.tab;
        if ((root.large ?? "") !== selection.large) {
            root.large = selection.large;
            for (const panel of document.querySelectorAll(".stage .panel")) {
                panel.classList.toggle("large", panel.dataset.panel === selection.large);
            }
            requestAnimationFrame(() => dispatchEvent(new Event("resize"))); // graphs fill their place
        }
        press();
        for (const listener of listeners) {
            listener(selection, index, facts);
        }
    }

    function finish() {
        late.splice(0).forEach(then => then());
    }

    /* The address follows once the views are drawn, as a browser takes 10 ms for it, but before whatever comes next. */
    function follow() {
        if (address) {
            const to = address;
            address = null;
            window.dash_clientside.page.address(to);
        }
    }
    addEventListener("pointerdown", follow, true);
    addEventListener("keydown", follow, true);

    /* The answer is there: what dashboard/writer.py has written. */
    function answered(answer) {
        document.getElementById("notice").textContent = answer.notice;
        if (answer.selection) {
            select(answer);
        }
        if (answer.done === null || answer.done >= sent) {
            sentAt = -Infinity;
            requestAnimationFrame(send);
        }
        follow();
        address = answer.address ?? null;
        if (document.documentElement.dataset.page === "workspace") {
            late.push(follow);
            setTimeout(follow, PATIENCE); // in a tab that is not looked at nothing is painted
        } else {
            follow();
        }
        Promise.allSettled([...held]).then(() => requestAnimationFrame(() => requestAnimationFrame(finish)));
    }

    /* --- what the server tells, in attributes that are JSON --- */

    /* Text and elements of components of dash.html, or lists of them. */
    function built(body) {
        if (Array.isArray(body)) {
            return body.flatMap(built);
        }
        if (body === null || typeof body !== "object") {
            return body === null ? [] : [String(body)];
        }
        const {children = null, className, style = {}, ...rest} = body.props;
        const has = Object.entries({class: className || null, ...rest}).filter(([, value]) => value !== null && value !== false);
        const made = shared.element(body.type.toLowerCase(), Object.fromEntries(has), ...built(children));
        Object.assign(made.style, style);
        return [made];
    }

    new MutationObserver(changes => {
        const heard = id => changes.some(({target}) => target.id === id) && JSON.parse(document.getElementById(id).dataset.told);
        const answer = heard("written");
        const shown = Object.entries(heard("shown") || {}).map(([place, value]) => [...place.split("."), value]);
        for (const [id, , body] of shown.filter(([, part]) => part === "data-body")) {
            document.getElementById(id).replaceChildren(...built(body));
        }
        if (answer) {
            answered(answer);
        }
        for (const [name, , value] of shown.filter(([, part]) => part === "data-told")) {
            told[name](value);
        }
    }).observe(document, {subtree: true, attributeFilter: ["data-told"]});

    window.dash_clientside = window.dash_clientside || {};
    window.dash_clientside.header = {
        /* A class that was picked goes in the set, and the picker is empty again. */
        add_class(index) {
            if (index === undefined || index === null) {
                return window.dash_clientside.no_update;
            }
            gesture("class", index);
            return null;
        },

        /* The range that the slider was moved to; it is moved by the page too, when the set changes. */
        probability(range) {
            const has = shared.selection?.images.match(/(?:^|;)p:([^;]*)\.\.([^;]*)/);
            const now = has ? has.slice(1).map(Number) : [0, 1];
            if (shared.selection && range.some((value, end) => Math.abs(value - now[end]) > 5e-4)) {
                gesture("probability", range);
            }
        },
    };

    // What a summary opens closes as a menu does: on a click elsewhere, and on Escape.
    addEventListener("pointerdown", event => {
        for (const open of document.querySelectorAll("details.filter[open]")) {
            open.open = open.contains(event.target) || Boolean(event.target.closest?.("[data-radix-popper-content-wrapper]"));
        }
    });
    addEventListener("keydown", event => {
        const open = event.key === "Escape" && document.querySelector("details.filter[open]");
        if (open) {
            open.open = false;
            open.querySelector("summary").focus();
            event.preventDefault();
        }
    }, true);
    return shared;
})();
