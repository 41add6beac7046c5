/* How does one picture that is dropped on the workspace become a private study? It is sent, followed, and opened. */
(() => {
    const EVERY = 1000; // ms between two looks at the job
    const WAITS = [1000, 2000, 4000, 8000]; // ms before a piece is sent again that did not arrive
    const MOST = 50e6; // bytes
    const KINDS = /\.(jpe?g|jpe|jfif|png|webp|bmp|tiff?|gif)$/i;
    const root = document.documentElement;
    const make = headscope.element;
    const pause = ms => new Promise(then => setTimeout(then, ms));
    const study = () => root.dataset.page === "workspace" && headscope.selection?.study;
    const carries = event => [...event.dataTransfer?.types ?? []].includes("Files");

    let now = null; // what is under way: {name, study, id, job, stopped, share, said}
    let box, input; // made when they are needed first

    /* What the server answers as JSON; anything else is an error with its words, and with its status. */
    async function ask(path, options = {}) {
        const answer = await fetch(path, options);
        if (!answer.ok) {
            throw Object.assign(Error(await answer.text()), {status: answer.status});
        }
        return answer.status === 204 ? null : answer.json();
    }

    async function send(file) {
        if (!study() || now) {
            return;
        }
        if (!KINDS.test(file.name)) {
            return end(`${file.name} is no picture that can be read: send a JPEG, PNG, WebP, BMP, TIFF or GIF.`);
        }
        if (file.size > MOST) {
            return end(`${file.name} has ${Math.ceil(file.size / 1e6)} MB, and ${MOST / 1e6} MB are allowed.`);
        }
        const mine = now = {name: file.name, study: study(), share: 0, said: "is sent"};
        draw();
        try {
            const begun = await ask("/uploads/pictures", {
                method: "POST",
                headers: {"Content-Type": "application/json"},
                body: JSON.stringify({name: file.name, bytes: file.size}),
            });
            mine.id = begun.id;
            draw();
            mine.job = await pieces(mine, file, begun.piece);
            const search = mine.job && await made(mine);
            if (now !== mine) {
                mine.id && await remove(mine); // stopped before the server had told which it is
            } else if (search) {
                now = null;
                open(search);
            }
        } catch (error) {
            now === mine && end(`${file.name}: ${error.message}`);
        }
    }

    /* Id of the job, once all has been sent. */
    async function pieces(mine, file, piece) {
        let at = 0, failed = 0;
        while (now === mine) {
            const path = `/uploads/pictures/${mine.id}?${new URLSearchParams({at, study: mine.study})}`;
            try {
                const {received, job} = await ask(path, {method: "PUT", body: file.slice(at, at + piece)});
                [at, failed] = [received, 0];
                say(mine, "is sent", 0.1 * at / file.size);
                if (job) {
                    return job;
                }
            } catch (error) {
                if (error.status && error.status < 500 || failed === WAITS.length) {
                    throw error;
                }
                await pause(WAITS[failed++]);
            }
        }
        return null;
    }

    /* The address of the private study, once it is there. */
    async function made(mine) {
        while (now === mine) {
            let told = null;
            try {
                told = await ask(`/uploads/pictures/${mine.id}?job=${mine.job}`);
            } catch (error) {
                if (error.status && error.status < 500) {
                    throw error;
                }
                say(mine, "waits for the server", mine.share);
            }
            if (told?.search) {
                return told.search;
            }
            if (told && ["failed", "cancelled", "done"].includes(told.state)) {
                throw Error(told.said);
            }
            told && say(mine, told.said, 0.1 + 0.9 * told.share);
            await pause(EVERY);
        }
        return null;
    }

    function open(search) {
        end(""); // what is seen next says it
        window.dash_clientside.set_props("studies-mark", {data: search}); // the picker has it too
        window.dash_clientside.page.go(`/${search}`);
    }

    function stop() {
        const stopped = now;
        end("");
        stopped.id && remove(stopped);
    }

    const remove = ({id, job}) => ask(`/uploads/pictures/${id}?${new URLSearchParams(job ? {job} : {})}`, {method: "DELETE"}).catch(() => null);

    /* --- what is seen --- */

    function say(mine, said, share) {
        if (now === mine) {
            Object.assign(mine, {said, share});
            draw();
        }
    }

    /* Nothing is under way any more; why, if it went wrong. */
    function end(why) {
        now = null;
        draw(why);
    }

    const button = (act, said) => make("button", {type: "button", class: "option", "data-act": act}, said);

    function draw(why = "") {
        if (!box) {
            box = make("div", {class: "picture-box", role: "status"});
            box.addEventListener("click", event => ({stop, close: () => end("")})[event.target.dataset.act]?.());
            document.body.append(box);
        }
        const share = Math.floor(100 * (now?.share ?? 0));
        const line = box.querySelector("[role=progressbar]");
        if (now && line) { // changed where it stands: the button keeps the focus
            line.setAttribute("aria-valuenow", share);
            line.firstChild.style.width = `${share}%`;
            box.querySelector(".said").textContent = now.said;
            return;
        }
        const bar = () => make("span", {class: "progress-bar-line", role: "progressbar", "aria-label": "Picture", "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": share}, make("i", {style: `width:${share}%`}));
        const parts = now ? [make("b", {}, now.name), make("span", {class: "said"}, now.said), bar(), button("stop", "stop")] : why ? [make("span", {class: "problem"}, why), button("close", "close")] : [];
        box.replaceChildren(...parts);
    }

    function pick() {
        if (!input) {
            input = make("input", {type: "file", id: "picture-file", accept: "image/*", hidden: "", "aria-label": "A picture of your own"});
            input.addEventListener("change", () => {
                const [file] = input.files;
                input.value = ""; // the same file may be picked again
                file && send(file);
            });
            document.body.append(input);
        }
        input.click();
    }

    document.addEventListener("click", event => event.target.closest?.("#image-overview-picture") && pick());

    // A file that misses would be opened in place of the page.
    let over = 0;
    const mark = on => root.classList.toggle("takes-picture", on);
    addEventListener("dragover", event => {
        if (carries(event) && study()) {
            event.preventDefault();
            mark(true);
            clearTimeout(over);
            over = setTimeout(mark, 400, false); // it is told again and again while it is over the page
        }
    });
    addEventListener("drop", event => {
        if (carries(event) && study()) {
            event.preventDefault();
            mark(false);
            const [file] = event.dataTransfer.files;
            file && send(file);
        }
    });
    addEventListener("beforeunload", event => now && !now.job && event.preventDefault());
})();
