/* How do studies come into their list? As plain rows: those of Dash's own components take seconds for 200 studies. */
window.dash_clientside = window.dash_clientside || {};
(() => {
    const COLUMNS = ["Study", "", "Images", "Heads", "Top-1", "Published"];
    const make = headscope.element;

    const some = (said, tag, attributes) => said ? [make(tag, attributes, said)] : [];

    function opens(row) {
        const doubts = row.doubts.map(([label, said]) => make("span", {class: "chip loud", title: said}, label));
        const pictures = row.pictures.map(src => make("img", {loading: "lazy", alt: "", src}));
        return [
            make("th", {scope: "row"}, make("a", {class: "name", href: row.href}, row.label), make("small", {}, row.model, ...doubts, ...some(row.private, "span", {class: "chip"}))),
            make("td", {}, make("div", {class: "pictures"}, ...pictures)),
            make("td", {class: "number"}, row.images, ...some(row.unreadable, "small")),
            make("td", {class: "number"}, row.heads),
            make("td", {class: "number"}, row.top1),
            make("td", {}, make("span", {title: row.at}, row.published), ...some(row.job && "being computed anew", "a", {href: row.job})),
        ];
    }

    function opensNot(row) {
        const bar = row.share === null ? [] : [make("span", {class: "progress-bar-line"}, make("i", {style: `width:${100 * row.share}%`}))];
        const [mark, word] = row.words;
        const said = [make("b", {}, make("i", {"aria-hidden": "true"}, mark), word), ...bar, ...some(row.said, "span", {class: "said"})];
        const state = make("div", {class: "state"}, ...said, ...some(row.job && "its job", "a", {href: row.job}));
        return [make("th", {scope: "row", class: "name"}, row.name), make("td", {class: "closed", colspan: COLUMNS.length - 1}, state)];
    }

    let rows = []; // as views/studies.py tells them, the newest first
    let order = "published"; // or "name"

    function draw() {
        const list = document.getElementById("studies-list");
        for (const button of document.querySelectorAll("[data-order]")) {
            button.classList.toggle("on", button.dataset.order === order);
            button.setAttribute("aria-pressed", button.dataset.order === order);
        }
        if (!rows.length) {
            list.replaceChildren();
            return;
        }
        const sorted = order === "name" ? [...rows].sort((a, b) => a.name < b.name ? -1 : 1) : rows;
        const head = COLUMNS.map((column, i) => make(column ? "th" : "td", i > 1 && i < 5 ? {class: "number"} : {}, column));
        const body = sorted.map(row => make("tr", {class: `study ${row.state}`}, ...(row.href ? opens(row) : opensNot(row))));
        const focused = list.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
        list.replaceChildren(make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...body)));
        if (focused) { // by keyboard one goes on where one was
            [...list.querySelectorAll("a")].find(link => link.getAttribute("href") === focused)?.focus();
        }
    }

    document.addEventListener("click", event => {
        const button = event.target.closest?.("[data-order]");
        if (button) {
            order = button.dataset.order;
            draw();
        }
    });

    window.dash_clientside.studies = {
        draw(told) {
            rows = told ?? [];
            draw();
        },
    };
})();
