/* How do the pruned heads look? Drawn from what the server found of them (views/pruning.py, `drawn`): another metric and
   other regions need nothing from it. When is it asked? Once the selection stays as it is, and until there is a result. */
window.dash_clientside = window.dash_clientside || {};
(() => {
    const SOON = 400; // ms; what follows a selection so soon waits until the selections stop for QUIET
    const QUIET = 200;
    const AGAIN = 300;
    const NO_CLS = "the model has no class token";

    const at = id => document.getElementById(id);
    const write = (id, props) => window.dash_clientside.set_props(id, props);
    const {element} = headscope;

    let found = null; // what the server found last, and what it says of what it has not
    const NOTHING = {said: "", told: false, waits: false};
    let state = NOTHING;
    let asked = ""; // what it was asked for last
    let preview = null; // regions under the pointer
    let parts = null; // what it is drawn with, of `build`

    /* What is pruned, as `drawn` has it. */
    const of = chosen => JSON.stringify([
        chosen.study, chosen.image, chosen.image === null ? chosen.images : "", chosen.basket || `${chosen.layer}.${chosen.head}`,
    ]);
    const isOf = chosen => found !== null && JSON.stringify(found.of) === of(chosen);
    const has = chosen => isOf(chosen) && found.regions.includes(chosen.regions);

    // --- what it is drawn with ---

    /* Bars, matrix and the place of the predictions, of what views/pruning.prunable gives. */
    function build(place) {
        const {modes, cells: regions, names, without_cls: withoutCls} = JSON.parse(place.dataset.regions);
        const kind = name => name.toLowerCase().replace("→", "-");
        const hatched = () => regions.map(([bit, name]) => ({bit, mark: element("i", {class: kind(name)})}));
        // None of the six modes where `fixed` is null.
        const bar = fixed => {
            const [full, spread, reference] = ["bar", "spread", "reference"].map(name => element("i", {class: name}));
            const value = element("span", {class: "value"});
            const glyph = hatched();
            const button = element("button", {class: fixed === null ? "mode custom" : "mode", "data-gesture": "regions"},
                value,
                element("div", {class: "well"}, full, spread, reference),
                element("div", {class: "glyph"}, ...glyph.map(({mark}) => mark)));
            return {fixed, button, value, full, spread, reference, glyph};
        };
        const cell = ([bit, name]) => {
            const looks = {class: `cell ${kind(name)}`, "aria-label": `prune ${name}`};
            return {bit, name, button: element("button", {...looks, "data-gesture": "regions", "data-bit": bit, "data-name": name})};
        };
        const sides = [["to", 1], ["from", 0]].map(([side, end]) => [...new Set(regions.map(([, name]) => name.split("→")[end]))]
            .map(word => element("span", {class: `${side} ${word.toLowerCase()}`}, word)));
        const bars = [...modes, null].map(bar);
        const cells = regions.map(cell);
        const buttons = made => made.map(({button}) => button);
        const group = element("div", {id: "pruning-parts", class: "modes", role: "group"}, ...buttons(bars));
        const matrix = element("div", {id: "pruning-matrix", class: "regions", role: "group", "aria-label": "Regions that are pruned, source → target"},
            ...sides.flat(), ...buttons(cells));
        const predictions = element("div", {id: "pruning-predictions"});
        place.replaceChildren(group, matrix, element("div", {class: "beside"}, predictions));
        return {modes: new Set(modes), names, withoutCls, group, bars, cells, predictions};
    }

    // --- when the server is asked ---

    let held = false; // an arrow key is held down
    let last = -Infinity;
    let timer, again;

    addEventListener("keydown", event => { held = event.repeat; });
    addEventListener("keyup", () => { held = false; });
    addEventListener("blur", () => { held = false; });

    function ask(chosen) {
        if (held) {
            timer = setTimeout(ask, QUIET, chosen);
        } else {
            write("pruning-settled", {data: chosen});
        }
    }

    function settle(chosen) {
        const wanted = of(chosen) + (parts.modes.has(chosen.regions) ? "" : chosen.regions);
        if (wanted === asked) {
            return;
        }
        asked = wanted;
        clearTimeout(timer);
        clearTimeout(again);
        if (has(chosen)) {
            return;
        }
        state = NOTHING;
        const now = performance.now();
        if (held || now - last < SOON) {
            timer = setTimeout(ask, QUIET, chosen);
        } else {
            headscope.afterDrawn(() => asked === wanted && ask(chosen));
        }
        last = now;
    }

    // --- what is drawn ---

    /* By the metric that is picked; by the first where that is no importance, of which pruning tells nothing. */
    const measured = chosen => found.metrics[chosen.metric] ?? Object.values(found.metrics)[0];

    function paint() {
        const chosen = headscope.selection;
        if (!chosen || !parts) {
            return;
        }
        const own = isOf(chosen), whole = has(chosen);
        const classes = at("pruning-body").classList;
        classes.toggle("stale", found !== null && !own);
        classes.toggle("told", state.told && !whole);
        at("pruning-body").closest(".panel").classList.toggle("working", state.waits && !whole);
        paintHeads(chosen);
        paintBars(chosen, own);
        paintMatrix(chosen);
        paintPredictions(chosen);
        const said = whole ? measured(chosen).reading : state.said;
        if (said) {
            Object.assign(at("pruning-reading"), {textContent: said, title: said});
        }
    }

    /* The heads that are pruned together; one by itself is the selected one. */
    function paintHeads(chosen) {
        const shown = JSON.stringify([chosen.basket, chosen.layer, chosen.head]);
        if (at("pruning-heads").dataset.drawn === shown) {
            return; // what has the focus keeps it
        }
        at("pruning-heads").dataset.drawn = shown;
        const heads = chosen.basket.split(",").filter(Boolean).map(head => head.split(".").map(Number));
        if (!heads.length) {
            at("pruning-heads").replaceChildren(element("span", {class: "selected"}, headscope.label(chosen.layer, chosen.head)));
            return;
        }
        const button = (kind, value, words, label) => {
            const does = {"data-gesture": kind, "data-value": JSON.stringify(value)};
            return element("button", {class: "chip", title: label, ...does}, words);
        };
        const chips = heads.map(([layer, head]) => {
            const label = headscope.label(layer, head);
            const chip = button("basket", [layer, head], `${label} ✕`, `Prune ${label} no longer together with the others`);
            chip.classList.toggle("on", layer === chosen.layer && head === chosen.head);
            return chip;
        });
        at("pruning-heads").replaceChildren(element("span", {class: "chips"}, ...chips), button("basket-clear", null, "clear", "Prune the selected head alone again"));
    }

    function paintBars(chosen, own) {
        const {modes, names, withoutCls} = parts;
        const told = found && measured(chosen);
        const free = modes.has(chosen.regions) ? found?.regions.find(regions => !modes.has(regions)) : chosen.regions;
        for (const {fixed, button, value, full, spread, reference, glyph} of parts.bars) {
            const regions = fixed ?? free ?? 0, name = names[regions];
            const hidden = fixed === null && free === undefined;
            const bar = hidden ? undefined : told?.bars[found.regions.indexOf(regions)];
            const on = !hidden && regions === chosen.regions;
            const lacks = !headscope.facts.has_cls && !withoutCls.includes(regions);
            const title = lacks ? `${name}: ${NO_CLS}` : bar?.title ?? name;
            Object.assign(button, {title, disabled: lacks, hidden, ariaLabel: title, ariaPressed: on});
            Object.assign(button.dataset, {value: regions, name});
            button.classList.toggle("on", on);
            value.textContent = bar?.value ?? "";
            full.hidden = !Number.isFinite(bar?.height);
            full.style.height = share(bar?.height);
            spread.hidden = !Number.isFinite(bar?.high);
            spread.style.bottom = share(bar?.low);
            spread.style.height = share(bar?.high - bar?.low);
            reference.hidden = !Number.isFinite(told?.reference) || !bar;
            reference.style.bottom = share(told?.reference);
            glyph.forEach(({bit, mark}) => mark.classList.toggle("off", Boolean(regions & bit)));
        }
        if (own) {
            parts.group.ariaLabel = `Pruned: ${at("pruning-heads").textContent}`;
        }
    }

    const share = part => `${100 * (part ?? 0)}%`;

    /* A click switches its region; without CLS there are patches→patches and the whole. */
    function paintMatrix(chosen) {
        for (const {bit, name, button} of parts.cells) {
            const off = Boolean(chosen.regions & bit);
            const lacks = !headscope.facts.has_cls && !parts.withoutCls.includes(bit);
            button.dataset.value = headscope.facts.has_cls ? chosen.regions ^ bit : chosen.regions === bit ? 0 : bit;
            button.disabled = lacks;
            button.classList.toggle("off", off);
            button.setAttribute("aria-pressed", off);
            button.title = `${name}${lacks ? `: ${NO_CLS}` : off ? " is pruned; click to keep it" : " is kept; click to prune it"}`;
        }
    }

    /* The predictions before and after; with a bar under the pointer, those of its regions. */
    function paintPredictions(chosen) {
        const regions = preview !== null && found?.regions.includes(preview) ? preview : chosen.regions;
        const told = found?.predictions[found.regions.indexOf(regions)];
        const made = !told ? [] : told.note ? [element("p", {}, told.note)] : told.rows ? [ofSet(told)] : [ofImage(told)];
        parts.predictions.classList.toggle("ranked", Boolean(told?.before));
        parts.predictions.replaceChildren(...made);
    }

    function ofImage({title, label, before, after, fallen}) {
        const column = (ranks, others) => element("ol", {}, ...ranks.map(rank => {
            const bar = element("i", {class: "bar"});
            bar.style.width = share(rank.share);
            const stays = others.some(other => other.class === rank.class);
            return element("li", {title: rank.title, class: `${rank.class === label ? "label" : ""} ${stays ? "" : "gone"}`.trim()},
                element("div", {}, element("span", {class: "name"}, rank.name), element("small", {}, rank.p)),
                element("div", {class: "track"}, bar));
        }));
        const lines = headscope.svg("svg", {viewBox: `0 0 1 ${Math.max(before.length, after.length)}`, preserveAspectRatio: "none", class: "slopes", "aria-hidden": "true"});
        before.forEach((rank, from) => {
            const to = after.findIndex(other => other.class === rank.class);
            if (to >= 0) {
                lines.append(headscope.svg("line", {x1: 0, y1: from + 0.5, x2: 1, y2: to + 0.5, class: rank.class === label ? "label" : ""}));
            }
        });
        return element("div", {class: "compared"},
            element("span", {}, "before"), element("span", {}, title), column(before, after), lines, column(after, before),
            ...(fallen ? [element("p", {}, element("b", {}, fallen.name), fallen.said)] : []));
    }

    function ofSet({title, rows}) {
        const head = [["", ""], ["before", "nothing pruned"], ["after", title]].map(([text, said]) => element("th", {title: said}, text));
        const body = rows.map(([label, before, after, said]) => element("tr", {}, element("th", {title: said}, label), element("td", {}, before), element("td", {}, after)));
        return element("table", {class: "numbers"}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...body));
    }

    addEventListener("pointerover", event => {
        const button = event.target.closest?.("#pruning-parts button");
        const regions = button ? Number(button.dataset.value) : null;
        if (regions !== preview) {
            preview = regions;
            paint();
        }
    });

    let picked = null; // regions
    headscope.onSelection(chosen => {
        const place = at("pruning-picture");
        if (!place) {
            return;
        }
        if (!place.childElementCount) {
            parts = build(place);
        }
        if (chosen.regions !== picked) {
            [picked, preview] = [chosen.regions, null];
        }
        settle(chosen);
        paint();
    });

    window.dash_clientside.pruning = {
        /* An answer is there; while it is waited for a result, the server is asked again. */
        found(result, said) {
            if (!said) {
                return;
            }
            [found, state] = [result ?? null, said];
            paint();
            if (said.waits) {
                clearTimeout(again);
                again = setTimeout(() => write("pruning-again", {data: performance.now()}), AGAIN);
            }
        },
    };
})();
