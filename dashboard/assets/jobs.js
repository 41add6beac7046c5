/* How do jobs come onto the page, and what do their cells look like? The page asks for what is new, again and again. */
window.dash_clientside = window.dash_clientside || {};
(() => {
    const EVERY = {jobs: 1000, live: 2000, quiet: 5000}; // ms: on the page of jobs; while jobs are live; else
    const root = document.documentElement;
    const set = (id, props) => window.dash_clientside.set_props(id, props);
    const addressed = () => new URLSearchParams(location.search).get("job") ?? "";

    let shown = "study";
    let watched = {}; // by page: id of the job that it follows
    let marks = {}; // by page: that job, as the page last told it
    let rows = new Map(); // as the grid has them: id to JSON
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
        let told;
        try {
            const wanted = new URLSearchParams({shown: page === "jobs" ? shown : "", job});
            const answer = await fetch(`/jobs.json?${wanted}`, {signal: AbortSignal.timeout(10_000)});
            told = answer.ok ? await answer.json() : undefined;
        } catch {
            told = undefined;
        }
        if (number !== asked) {
            return;
        }
        timer = setTimeout(poll, page === "jobs" ? EVERY.jobs : told?.live ? EVERY.live : EVERY.quiet);
        say(told !== undefined);
        if (told) {
            take(told, page);
        }
    }

    /* Whether the server answers, said quietly. */
    function say(answers) {
        heard = answers ? Date.now() : heard;
        const since = new Date(heard).toLocaleTimeString();
        set("jobs-away", {children: answers ? "" : `The server does not answer; this is as of ${since}.`});
    }

    function take(told, page) {
        const count = told.live === 1 ? "1 job" : told.live ? `${told.live.toLocaleString("en")} jobs` : "Jobs";
        set("jobs-count", {children: count, className: told.running ? "running" : ""});
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
            const fresh = new Map(told.rows.map(row => [row.id, JSON.stringify(row)]));
            const transaction = {
                add: told.rows.filter(row => !rows.has(row.id)),
                update: told.rows.filter(row => rows.has(row.id) && rows.get(row.id) !== fresh.get(row.id)),
                remove: [...rows.keys()].filter(id => !fresh.has(id)).map(id => ({id})),
            };
            if (Object.values(transaction).some(part => part.length)) {
                set("jobs-grid", {rowTransaction: {...transaction, async: false}});
            }
            rows = fresh;
            set("jobs-workers", {children: told.workers, className: told.short ? "workers short" : "workers"});
            set("jobs-none", {hidden: rows.size > 0});
            set("jobs-none-said", {children: told.none});
            mark();
        }
    }

    /* The grid's selected row is the job that the address names. */
    function mark() {
        const wanted = watched.jobs;
        window.dash_ag_grid?.getApiAsync("jobs-grid").then(grid => grid.forEachNode(node => {
            if (node.isSelected() !== (node.id === wanted)) {
                node.setSelected(node.id === wanted);
            }
        }));
    }

    function follow(job) {
        watched.jobs = job;
        marks.jobs = undefined;
        set("jobs-chosen", {data: {job}});
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
            mark();
        }
    }
    document.addEventListener("click", event => event.target.closest?.("#jobs-close") && choose(""));
    addEventListener("keydown", event => {
        if (event.key === "Escape" && root.dataset.page === "jobs" && !document.querySelector(".modal.show")) {
            choose("");
        }
    });

    window.dash_clientside.jobs = {
        show(kinds) {
            shown = kinds;
            window.dash_ag_grid?.getApiAsync("jobs-grid").then(grid => grid.setColumnsVisible(["kind"], kinds === "all"));
            poll();
        },

        /* A row was selected, or released. */
        choose(selected) {
            if (root.dataset.page === "jobs" && selected?.length) {
                choose(selected[0].id);
            }
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

    // --- cells ---
    const element = (...given) => window.React.createElement(...given);

    window.dashAgGridComponentFunctions = Object.assign(window.dashAgGridComponentFunctions ?? {}, {
        JobTitle: ({data}) => data.href
            ? element("a", {href: data.href, title: `Open ${data.title}`}, data.title)
            : element("span", {title: data.title}, data.title),

        JobState: ({value}) => element("span", {className: `state ${value.word}`},
            element("i", {"aria-hidden": true}, value.mark), value.word),

        JobProgress: ({value, data}) => !value.share && !value.said ? null : element("div", {className: `progress-cell ${data.state.word}`, title: value.said},
            element("div", {className: "progress-bar-line", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100,
                "aria-valuenow": Math.round(100 * value.share)},
                element("i", {style: {width: `${100 * value.share}%`}})),
            element("span", {}, value.said)),

        JobTime: ({value}) => element("span", {title: new Date(1000 * value.at).toLocaleString()}, value.said),

        /* Cancelling asks once more, in the cell itself. */
        JobActions(props) {
            const [asking, ask] = window.React.useState(false);
            const press = action => event => {
                event.stopPropagation();
                action();
            };
            const button = (text, title, action, kind = "") =>
                element("button", {type: "button", className: `option ${kind}`, title, onClick: press(action)}, text);
            if (props.value === "open") {
                return element("a", {href: props.data.href, className: "option"}, "open");
            }
            if (props.value !== "cancel") {
                return null;
            }
            return asking
                ? element("span", {className: "choice"},
                    button("cancel for good", "Stop it and free its space", () => { ask(false); props.setData("cancel"); }, "sharp"),
                    button("no", "Let it go on", () => ask(false)))
                : button("cancel", "Stop this job and free what it took", () => ask(true));
        },
    });
})();
