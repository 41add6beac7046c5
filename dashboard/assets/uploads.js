/* How does an archive of pictures come from this machine into the form? In pieces; then its job is followed. */
window.dash_clientside = window.dash_clientside || {};
(() => {
    const EVERY = 1000; // ms between two looks at the job
    const WAITS = [1000, 2000, 4000, 8000, 16000]; // ms before a piece is sent again that did not arrive
    const byId = id => document.getElementById(id);
    const set = (id, props) => window.dash_clientside.set_props(id, props);
    const make = headscope.element;
    const pause = ms => new Promise(then => setTimeout(then, ms));

    let known = null; // what the server last told: uploads, piece, limit_mb
    let now = null; // what is under way: {name, share, said, id, request, stopped}
    let asking = ""; // id of the upload that is to be removed, if that is meant
    let picked = 0;

    const says = text => set("new-study-upload-problem", {children: text});

    /* What the server answers as JSON; anything else is an error with its words. */
    async function ask(path, options = {}) {
        const answer = await fetch(path, options);
        if (!answer.ok) {
            throw Error(await answer.text());
        }
        return answer.status === 204 ? null : answer.json();
    }

    async function look() {
        try {
            known = await ask("/uploads");
            set("new-study-upload-hint", {children: `One folder a class, or a flat folder; at most ${known.limit_mb.toLocaleString("en")} MB.`});
        } catch (error) {
            known = null;
            set("new-study-upload-hint", {children: error.message});
        }
        draw();
    }

    /* --- sending --- */

    async function send(file) {
        if (now || !known) {
            return;
        }
        if (!/\.zip$/i.test(file.name)) {
            says(`${file.name} is no zip: zip the folder of pictures and send that.`);
            return;
        }
        says("");
        now = {name: file.name, share: 0, said: "is sent, 0 %"};
        draw();
        try {
            const {id} = await ask("/uploads", {
                method: "POST",
                headers: {"Content-Type": "application/json"},
                body: JSON.stringify({name: file.name, bytes: file.size}),
            });
            now.id = id;
            const job = await sendPieces(file);
            if (!now.stopped && await unpacked(job)) {
                set("new-study-uploaded", {data: {id, times: ++picked}});
            }
        } catch (error) {
            says(now.stopped ? "" : `${file.name}: ${error.message}`);
        }
        now = null;
        look();
    }

    /* Id of the job that unpacks what was sent. */
    async function sendPieces(file) {
        let at = 0, failed = 0, job = null;
        while (!job && !now.stopped) {
            const sent = await sendPiece(file, at);
            if (sent.status === 200 || sent.status === 409 && sent.told) {
                failed = sent.status === 200 ? 0 : failed + 1;
                ({received: at, job = null} = sent.told);
            } else if (sent.status && sent.status < 500) {
                throw Error(sent.text);
            } else {
                failed += 1;
            }
            if (failed > WAITS.length) {
                throw Error(sent.text || "the server does not answer; send it again");
            }
            if (failed) {
                now.said = "waits for the server";
                draw();
                await pause(WAITS[failed - 1]);
            }
        }
        return job;
    }

    /* XMLHttpRequest: fetch does not say how much has gone. */
    function sendPiece(file, at) {
        return new Promise(then => {
            const request = now.request = new XMLHttpRequest();
            request.open("PUT", `/uploads/${now.id}?at=${at}`);
            request.upload.onprogress = event => {
                now.share = (at + event.loaded) / file.size;
                now.said = `is sent, ${Math.floor(100 * Math.min(1, now.share))}\u202f%`;
                draw();
            };
            request.onloadend = () => {
                let told = null;
                try {
                    told = JSON.parse(request.responseText);
                } catch { /* words, or nothing */ }
                then({status: request.status, text: request.responseText, told});
            };
            request.send(file.slice(at, at + known.piece));
        });
    }

    /* Whether it has become pictures, once that is known. */
    async function unpacked(job) {
        for (;;) {
            const told = await ask(`/uploads/${now.id}?job=${job}`);
            if (told.state === "ready" || now.stopped) {
                return !now.stopped;
            }
            if (["failed", "cancelled", "done"].includes(told.state)) {
                throw Error(told.said);
            }
            Object.assign(now, told);
            draw();
            await pause(EVERY);
        }
    }

    async function stop() {
        now.stopped = true;
        now.request?.abort();
        await remove(now.id);
    }

    async function remove(id) {
        asking = "";
        try {
            await ask(`/uploads/${id}`, {method: "DELETE"});
            says("");
        } catch (error) {
            says(error.message);
        }
        set("new-study-uploaded", {data: {times: ++picked}}); // the list of pictures has it no more
        await look();
    }

    /* --- what is seen --- */

    function begin(place) {
        const input = make("input", {type: "file", id: "new-study-upload", accept: ".zip,application/zip", class: "visually-hidden"});
        input.addEventListener("change", () => {
            const [file] = input.files;
            input.value = ""; // the same file may be picked again
            file && send(file);
        });
        const label = make("label", {for: input.id, class: "button"}, "Send a zip of pictures, or drop it here");
        place.append(make("div", {class: "upload-pick"}, input, label), make("div", {class: "upload-now"}), make("ul", {class: "upload-list"}));
        place.addEventListener("dragover", event => {
            event.preventDefault();
            place.classList.add("over");
        });
        place.addEventListener("dragleave", () => place.classList.remove("over"));
        place.addEventListener("drop", event => {
            event.preventDefault();
            place.classList.remove("over");
            const [file] = event.dataTransfer.files;
            file && send(file);
        });
        place.addEventListener("click", event => {
            const button = event.target.closest("[data-upload]"), id = button?.dataset.upload;
            const act = {stop, ask: () => { asking = id; draw(); }, leave: () => { asking = ""; draw(); }, remove: () => remove(id)};
            act[button?.dataset.act]?.();
        });
    }

    const press = (act, said, id = "") => make("button", {type: "button", class: `option${act === "remove" ? " sharp" : ""}`, "data-act": act, "data-upload": id}, said);

    function draw() {
        const place = byId("new-study-uploads");
        if (!place) {
            return; // it is on another page: what is sent goes on
        }
        const [pick, line, list] = place.children;
        pick.hidden = Boolean(now) || !known;
        const value = {"aria-label": "Upload", "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": Math.floor(100 * now?.share)};
        const bar = () => make("span", {class: "progress-bar-line", role: "progressbar", ...value}, make("i", {style: `width:${100 * now.share}%`}));
        line.replaceChildren(...now ? [bar(), make("span", {}, `${now.name} ${now.said}`), ...now.id ? [press("stop", "stop")] : []] : []);
        list.replaceChildren(...(known?.uploads ?? []).filter(each => each.id !== now?.id).map(row));
    }

    function row(upload) {
        const refused = upload.refused && make("a", {href: `/uploads/${upload.id}/refused.json`, download: ""}, `${upload.refused.toLocaleString("en")} left out`);
        const buttons = asking === upload.id ? [press("remove", "remove for good", upload.id), press("leave", "no", upload.id)] : [press("ask", "remove", upload.id)];
        return make("li", {}, make("b", {}, upload.name), make("small", {}, upload.said), ...refused ? [refused] : [], make("span", {class: "acts"}, ...buttons));
    }

    addEventListener("beforeunload", event => now && event.preventDefault());

    window.dash_clientside.uploads = {
        /* The form is there, or is looked at again. */
        opened() {
            const place = byId("new-study-uploads");
            if (place && !place.children.length) {
                begin(place);
            }
            look();
        },
    };
})();
