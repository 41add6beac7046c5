/* How do jobs come onto the page, and what do their rows look like? The page asks for what is new, again and again. */
window.dash_clientside = window.dash_clientside || {};
(() => {
    const EVERY = {jobs: 1000, live: 2000, quiet: 8000}; // ms: on the page of jobs; while jobs are live; else
    const root = document.documentElement;
    const set = (id, props) => window.dash_clientside.set_props(id, props);
    const addressed = () => new URLSearchParams(location.search).get("job") ?? "";

    let shown = "study";
    let watched = {}; // by page: id of the job that it follows
    let marks = {}; // by page: that job, as the page last told it
    const said = {}; // by id, as JSON
    let studies; // mark of the studies, as the picker has them
    let timer = 0;
    let asked = 0; // counts requests: an answer to an earlier one than the last is too late
    let heard = Date.now();

    async function poll() {
        clearTimeout(timer);
        if (document.hidden) {
            return; // until it is looked at again
        }
        const number = ++asked, page = root.dataset.page, job = watched[page] ?? "";
        let told, why = "";
        try {
            const wanted = new URLSearchParams({shown: page === "jobs" ? shown : "", job});
            const answer = await fetch(`/jobs.json?${wanted}`, {signal: AbortSignal.timeout(10_000)});
            told = answer.ok ? await answer.json() : undefined;
            why = answer.status === 503 ? await answer.text() : "";
        } catch {
            told = undefined;
        }
        if (number !== asked) {
            return;
        }
        timer = setTimeout(poll, page === "jobs" ? EVERY.jobs : told?.live ? EVERY.live : EVERY.quiet);
        sayWhether(told !== undefined, why);
        if (told) {
            take(told, page);
        }
    }

    /* As set, but what is there already costs nothing: this is said again and again. */
    function say(id, props) {
        const text = JSON.stringify(props);
        if (said[id] !== text) {
            said[id] = text;
            set(id, props);
        }
    }

    /* Whether the server answers, said quietly; if it says itself why there are no jobs, that. */
    function sayWhether(answers, why) {
        heard = answers ? Date.now() : heard;
        const since = new Date(heard).toLocaleTimeString();
        say("jobs-away", {children: answers ? "" : why || `The server does not answer; this is as of ${since}.`});
    }

    function take(told, page) {
        const count = told.live === 1 ? "1 job" : told.live ? `${told.live.toLocaleString("en")} jobs` : "Jobs";
        say("jobs-count", {children: count, className: told.running ? "running" : ""});
        if (studies !== undefined && studies !== told.studies) {
            set("studies-mark", {data: told.studies});
            if (page === "workspace" && document.querySelector("#empty > *")) { // the first study there is
                set("url", {data: {search: location.search}});
            }
        }
        studies = told.studies;
        if (told.watched && told.watched.job === watched[page] && marks[page] !== told.watched.mark) {
            marks[page] = told.watched.mark;
            set(page === "jobs" ? "jobs-chosen" : "new-study-heard", {data: told.watched});
        }
        if (told.rows) {
            rows = told.rows;
            draw();
            say("jobs-workers", {children: told.workers, className: told.short ? "workers short" : "workers"});
            say("jobs-older", {children: told.older, hidden: !told.older});
            say("jobs-none", {hidden: rows.length > 0});
            say("jobs-none-said", {children: told.none});
        }
    }

    function follow(job) {
        watched.jobs = job;
        marks.jobs = undefined;
        set("jobs-chosen", {data: {job}});
        toShow = job;
        draw();
        poll();
    }

    addEventListener("headscope-page", () => {
        if (root.dataset.page !== "jobs") {
            set("jobs-said", {children: ""});
        } else if ((watched.jobs ?? "") !== addressed()) {
            follow(addressed());
            return;
        }
        poll();
    });
    document.addEventListener("visibilitychange", poll);

    function choose(job) {
        if ((watched.jobs ?? "") !== job) {
            history.replaceState(null, "", job ? `/jobs?job=${encodeURIComponent(job)}` : "/jobs");
            follow(job);
        }
    }

    /* Closes what is told of the selected job; the focus goes back to its row. */
    function close() {
        if (document.getElementById("jobs-detail").contains(document.activeElement)) {
            drawn.get(watched.jobs)?.focus();
        }
        choose("");
    }

    // --- the table ---

    const MOMENT = 1000; // ms
    const make = headscope.element;
    const drawn = new Map(); // by id: the row of a job
    const cells = new WeakMap(); // by cell: what it shows, as JSON
    let rows = []; // as the page was told them last, in order
    let asking = ""; // id of the job whose cancelling is asked about
    let pressed = 0;
    let stop; // the row at which Tab stops
    let toShow = ""; // id of the job that is to be scrolled to
    let shownAt = -Infinity; // when that was done

    /* By name: the title of a column, what of a row it shows, and how. A cell is made anew only when that has changed. */
    const COLUMNS = {
        title: ["Job", ["title", "href"], ({title, href}) =>
            [href ? make("a", {href, title: `Open ${title}`}, title) : make("span", {title}, title)]],
        kind: ["Kind", ["kind"], ({kind}) => [kind]],
        who: ["Asked by", ["who"], ({who}) => [make("span", {title: who}, who)]],
        state: ["State", ["state"], ({state: {mark, word}}) =>
            [make("span", {class: `state ${word}`}, make("i", {"aria-hidden": "true"}, mark), word)]],
        progress: ["Progress", ["progress", "state"], progress],
        rate: ["Images/s", ["rate"], ({rate}) => [rate]],
        eta: ["Left", ["eta"], ({eta}) => [eta]],
        place: ["Queue", ["place"], ({place}) => [place]],
        submitted: ["Asked", ["submitted"], ({submitted: {at, said}}) =>
            [make("span", {title: new Date(1000 * at).toLocaleString()}, said)]],
        actions: ["", ["actions", "href", "asked"], actions],
    };

    function progress({progress: {share, said}, state}) {
        if (!share && !said) {
            return [];
        }
        const far = {role: "progressbar", "aria-label": "Progress", "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": Math.round(100 * share)};
        const bar = make("div", {class: "progress-bar-line", ...far}, make("i", {style: `width:${100 * share}%`}));
        return [make("div", {class: `progress-cell ${state.word}`, title: said}, bar, make("span", {}, said))];
    }

    /* Cancelling asks once more, in the cell itself. */
    function actions({actions, href, asked}) {
        const button = (press, title, said, kind = "") =>
            make("button", {type: "button", class: `option ${kind}`, title, "data-press": press}, said);
        if (actions === "open") {
            return [make("a", {href, class: "option"}, "open")];
        }
        if (actions === "again") {
            return [button("again", "Ask for the same study: what fits is kept, the rest is computed", "compute again")];
        }
        if (actions !== "cancel") {
            return [];
        }
        return asked
            ? [make("span", {class: "choice"},
                button("cancel", "Stop it and free its space", "cancel for good", "sharp"),
                button("leave", "Let it go on", "no"))]
            : [button("ask", "Stop this job and free what it took", "cancel")];
    }

    /* The empty table, made once. */
    function table() {
        const place = document.getElementById("jobs-table");
        if (!place.firstChild) {
            const head = Object.entries(COLUMNS).map(([name, [title]]) =>
                make(title ? "th" : "td", {"data-column": name, ...title && {scope: "col"}}, title));
            const body = make("tbody");
            place.append(make("table", {role: "grid", "aria-label": "Jobs"}, make("thead", {}, make("tr", {}, ...head)), body));
            new ResizeObserver(reveal).observe(place.parentElement);
        }
        place.firstChild.classList.toggle("one-kind", shown !== "all");
        return place.firstChild.tBodies[0];
    }

    /* Draws the rows as they were told last. What has not changed stays as it is, with its focus and what is marked in it. */
    function draw() {
        asking = rows.some(row => row.id === asking && row.actions === "cancel") ? asking : "";
        const body = table(), focused = document.activeElement;
        const within = body.contains(focused) && focused.closest(".job");
        const there = new Set(rows.map(row => row.id));
        for (const [id, tr] of drawn) {
            if (!there.has(id)) {
                tr.remove();
                drawn.delete(id);
            }
        }
        let next = body.firstChild;
        for (const row of rows) {
            const tr = drawn.get(row.id) ?? begin(row.id);
            fill(tr, {...row, asked: asking === row.id});
            if (next && next !== tr && next.nextSibling === tr) { // it moves down, as it has ended: the others stay
                next.remove();
                next = tr;
            }
            if (next === tr) {
                next = next.nextSibling;
            } else {
                body.insertBefore(tr, next);
            }
        }
        if (!body.contains(stop)) {
            stopAt(drawn.get(watched.jobs) ?? body.firstChild);
        }
        if (within && document.activeElement !== focused) {
            (body.contains(focused) ? focused : body.contains(within) ? within : stop)?.focus({preventScroll: true});
        }
        if (drawn.has(toShow)) {
            shownAt = performance.now();
            toShow = "";
            reveal();
        }
    }

    /* Brings the selected row into view: once, and as what is told of it takes its room. */
    function reveal() {
        if (performance.now() - shownAt < MOMENT) {
            drawn.get(watched.jobs)?.scrollIntoView({block: "nearest"});
        }
    }

    function begin(id) {
        const empty = Object.keys(COLUMNS).map(name =>
            make(name === "title" ? "th" : "td", {"data-column": name, ...name === "title" && {scope: "row"}}));
        const tr = make("tr", {class: "job", "data-job": id, tabindex: -1}, ...empty);
        drawn.set(id, tr);
        return tr;
    }

    function fill(tr, row) {
        Object.values(COLUMNS).forEach(([, shows, made], at) => {
            const cell = tr.cells[at], now = JSON.stringify(shows.map(name => row[name]));
            if (cells.get(cell) !== now) {
                cells.set(cell, now);
                cell.replaceChildren(...made(row));
                stopIn(cell, tr === stop);
            }
        });
        const selected = String(row.id === watched.jobs);
        if (tr.getAttribute("aria-selected") !== selected) {
            tr.setAttribute("aria-selected", selected);
        }
    }

    /* Tab stops at one row and at what can be pressed in it; arrows go to the others. */
    function stopAt(tr) {
        for (const [each, stops] of [[stop, false], [tr, true]]) {
            if (each) {
                each.tabIndex = stops ? 0 : -1;
                stopIn(each, stops);
            }
        }
        stop = tr;
    }

    function stopIn(part, stops) {
        for (const control of part.querySelectorAll("a, button")) {
            control.tabIndex = stops ? 0 : -1;
        }
    }

    document.addEventListener("click", event => {
        const row = event.target.closest?.(".job"), press = event.target.closest?.("[data-press]")?.dataset.press;
        if (press) {
            const other = {ask: "leave", leave: "ask"}[press];
            asking = press === "ask" ? row.dataset.job : "";
            if (press === "cancel" || press === "again") {
                set("jobs-cancel", {data: {job: row.dataset.job, act: press, times: ++pressed}});
            }
            draw();
            (row.querySelector(`[data-press="${other}"]`) ?? row).focus();
        } else if (event.target.closest?.("#jobs-close")) {
            close();
        } else if (row && !event.target.closest("a") && getSelection().isCollapsed) { // text may be marked
            choose(row.dataset.job);
        }
    });

    document.addEventListener("focusin", event => {
        const row = event.target.closest?.(".job");
        if (row) {
            stopAt(row);
        }
    });

    addEventListener("keydown", event => {
        const modified = event.ctrlKey || event.metaKey || event.altKey;
        if (root.dataset.page !== "jobs" || event.defaultPrevented || modified || document.querySelector(".modal.show")) {
            return;
        }
        const row = event.target.closest?.(".job"), all = row?.parentElement;
        const to = row && {ArrowUp: row.previousSibling, ArrowDown: row.nextSibling, Home: all.firstChild, End: all.lastChild}[event.key];
        if (to) {
            event.preventDefault();
            to.focus();
            choose(to.dataset.job);
        } else if (row && row === event.target && [" ", "Enter"].includes(event.key)) {
            event.preventDefault();
            choose(row.dataset.job);
        } else if (event.key === "Escape" && asking) {
            asking = "";
            draw();
        } else if (event.key === "Escape") {
            close();
        }
    });

    window.dash_clientside.jobs = {
        show(kinds) {
            shown = kinds;
            poll();
        },

        /* The job of the price that the form waits for. */
        price(told) {
            if (watched.new !== told?.job) {
                watched.new = told?.job;
                marks.new = undefined;
                poll();
            }
        },

        go(to) {
            if (to) {
                window.dash_clientside.page.go(to.href);
                set("jobs-said", {children: to.said});
            }
        },
    };
})();
