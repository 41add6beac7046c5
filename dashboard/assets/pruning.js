/* How do the pruned heads look? Drawn from what the server found of them (views/pruning.py, `drawn`): another metric and
   other regions need nothing from it. When is it asked? Once the selection stays as it is, and until there is a result. */
window.dash_clientside = window.dash_clientside || {};
(() => {
    const SOON = 400; // ms; what follows a selection so soon waits until the selections stop for QUIET
    const QUIET = 200;
    const AGAIN = 300;
    const ALL = 15, PATCHES = 8;
    const MODES = new Set([0, 15, 8, 1, 6, 7]);
    const NO_CLS = "the model has no class token";

    const at = id => document.getElementById(id);
    const write = (id, props) => window.dash_clientside.set_props(id, props);

    let found = null; // what the server found last, and what it says of what it has not
    const NOTHING = {said: "", told: false, waits: false};
    let state = NOTHING;
    let asked = ""; // what it was asked for last
    let preview = null; // regions under the pointer

    /* What is pruned, as `drawn` has it. */
    const of = chosen => JSON.stringify([
        chosen.study, chosen.image, chosen.image === null ? chosen.images : "", chosen.basket || `${chosen.layer}.${chosen.head}`,
    ]);
    const isOf = chosen => found !== null && JSON.stringify(found.of) === of(chosen);
    const has = chosen => isOf(chosen) && found.regions.includes(chosen.regions);

    function element(tag, props, ...children) {
        const made = Object.assign(document.createElement(tag), props);
        made.append(...children);
        return made;
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
        const wanted = of(chosen) + (MODES.has(chosen.regions) ? "" : chosen.regions);
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

    function paint() {
        const chosen = headscope.selection;
        if (!chosen || !at("pruning-body")) {
            return;
        }
        const own = isOf(chosen), whole = has(chosen);
        const classes = at("pruning-body").classList;
        classes.toggle("stale", found !== null && !own);
        classes.toggle("waiting", state.waits && !whole);
        classes.toggle("told", state.told && !whole);
        paintHeads(chosen);
        paintBars(chosen, own);
        paintMatrix(chosen);
        paintPredictions(chosen);
        const said = whole ? found.metrics[chosen.metric].reading : state.said;
        if (said) {
            Object.assign(at("pruning-reading"), {textContent: said, title: said});
        }
    }

    /* The heads that are pruned together; one by itself is the selected one. */
    function paintHeads(chosen) {
        const drawn = JSON.stringify([chosen.basket, chosen.layer, chosen.head]);
        if (at("pruning-heads").dataset.drawn === drawn) {
            return; // what has the focus keeps it
        }
        at("pruning-heads").dataset.drawn = drawn;
        const heads = chosen.basket.split(",").filter(Boolean).map(head => head.split(".").map(Number));
        if (!heads.length) {
            at("pruning-heads").replaceChildren(element("span", {className: "selected"}, headscope.label(chosen.layer, chosen.head)));
            return;
        }
        const button = (kind, value, words, label) => {
            const made = element("button", {className: "chip", title: label}, words);
            Object.assign(made.dataset, {gesture: kind, value: JSON.stringify(value)});
            return made;
        };
        const chips = heads.map(([layer, head]) => {
            const label = headscope.label(layer, head);
            const chip = button("basket", [layer, head], `${label} ✕`, `Prune ${label} no longer together with the others`);
            chip.classList.toggle("on", layer === chosen.layer && head === chosen.head);
            return chip;
        });
        at("pruning-heads").replaceChildren(element("span", {className: "chips"}, ...chips), button("basket-clear", null, "clear", "Prune the selected head alone again"));
    }

    function paintBars(chosen, own) {
        const drawn = found?.metrics[chosen.metric];
        const parts = at("pruning-parts");
        const [custom] = parts.getElementsByClassName("custom");
        const free = MODES.has(chosen.regions) ? found?.regions.find(regions => !MODES.has(regions)) : chosen.regions;
        custom.hidden = free === undefined;
        custom.dataset.value = free ?? 0;
        custom.dataset.name = [...at("pruning-matrix").querySelectorAll("button")]
            .filter(cell => free & cell.dataset.bit).map(cell => cell.dataset.name).join(", ") + " pruned";
        hatch(custom.lastElementChild.children, free ?? 0);
        for (const button of parts.children) {
            const regions = Number(button.dataset.value);
            const bar = button.hidden ? undefined : drawn?.bars[found.regions.indexOf(regions)];
            const [value, well] = button.children;
            const [full, spread, reference] = well.children;
            const lacks = !headscope.facts.has_cls && ![0, PATCHES, ALL].includes(regions);
            const title = lacks ? `${button.dataset.name}: ${NO_CLS}` : bar?.title ?? button.dataset.name;
            button.title = title;
            button.disabled = lacks;
            button.setAttribute("aria-label", title);
            button.setAttribute("aria-pressed", regions === chosen.regions);
            button.classList.toggle("on", regions === chosen.regions);
            value.textContent = bar?.value ?? "";
            full.hidden = !Number.isFinite(bar?.height);
            full.style.height = share(bar?.height);
            spread.hidden = !Number.isFinite(bar?.high);
            spread.style.bottom = share(bar?.low);
            spread.style.height = share(bar?.high - bar?.low);
            reference.hidden = !Number.isFinite(drawn?.reference) || !bar;
            reference.style.bottom = share(drawn?.reference);
        }
        if (own) {
            parts.ariaLabel = `Pruned: ${at("pruning-heads").textContent}`;
        }
    }

    const share = part => `${100 * (part ?? 0)}%`;

    function hatch(cells, regions) {
        [1, 2, 4, 8].forEach((bit, place) => cells[place].classList.toggle("off", Boolean(regions & bit)));
    }

    /* A click switches its region; without CLS there are patches→patches and the whole. */
    function paintMatrix(chosen) {
        for (const cell of at("pruning-matrix").querySelectorAll("button")) {
            const bit = Number(cell.dataset.bit), off = Boolean(chosen.regions & bit);
            const lacks = !headscope.facts.has_cls && bit !== PATCHES;
            cell.dataset.value = headscope.facts.has_cls ? chosen.regions ^ bit : chosen.regions === PATCHES ? 0 : PATCHES;
            cell.disabled = lacks;
            cell.classList.toggle("off", off);
            cell.setAttribute("aria-pressed", off);
            cell.title = `${cell.dataset.name}${lacks ? `: ${NO_CLS}` : off ? " is pruned; click to keep it" : " is kept; click to prune it"}`;
        }
    }

    /* The predictions before and after; with a bar under the pointer, those of its regions. */
    function paintPredictions(chosen) {
        const regions = preview !== null && found?.regions.includes(preview) ? preview : chosen.regions;
        const drawn = found?.predictions[found.regions.indexOf(regions)];
        const made = !drawn ? [] : drawn.note ? [element("p", {}, drawn.note)] : drawn.rows ? [ofSet(drawn)] : [ofImage(drawn)];
        at("pruning-predictions").replaceChildren(...made);
    }

    function ofImage({title, label, before, after, fallen}) {
        const column = (ranks, others) => element("ol", {}, ...ranks.map(rank => {
            const bar = element("i", {className: "bar"});
            bar.style.width = share(rank.share);
            const stays = others.some(other => other.class === rank.class);
            return element("li", {title: rank.title, className: `${rank.class === label ? "label" : ""} ${stays ? "" : "gone"}`.trim()},
                element("div", {}, element("span", {className: "name"}, rank.name), element("small", {}, rank.p)),
                element("div", {className: "track"}, bar));
        }));
        const lines = headscope.svg("svg", {viewBox: `0 0 1 ${Math.max(before.length, after.length)}`, preserveAspectRatio: "none", class: "slopes", "aria-hidden": "true"});
        before.forEach((rank, from) => {
            const to = after.findIndex(other => other.class === rank.class);
            if (to >= 0) {
                lines.append(headscope.svg("line", {x1: 0, y1: from + 0.5, x2: 1, y2: to + 0.5, class: rank.class === label ? "label" : ""}));
            }
        });
        return element("div", {className: "compared"},
            element("span", {}, "before"), element("span", {}, title), column(before, after), lines, column(after, before),
            ...(fallen ? [element("p", {}, element("b", {}, fallen.name), fallen.said)] : []));
    }

    function ofSet({title, rows}) {
        const head = [["", ""], ["before", "nothing pruned"], ["after", title]].map(([text, said]) => element("th", {title: said}, text));
        const body = rows.map(([label, before, after, said]) => element("tr", {}, element("th", {title: said}, label), element("td", {}, before), element("td", {}, after)));
        return element("table", {className: "numbers"}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...body));
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
