/* When is a form asked about, and which of its fields are marked? Once nothing was typed for a moment; those with a problem. */
window.dash_clientside = window.dash_clientside || {};
(() => {
    const MOMENT = 500; // ms
    const FIELDS = [
        "model", "weights", "checkpoint", "images", "per-class", "masks", "name",
        "classes", "label-map", "no-labels", "image-size", "mean", "std", "crop-pct", "interpolation", "pool", "outputs",
        "part", "seed", "attention", "skip",
    ];
    const byId = id => document.getElementById(id);
    let timer = 0, times = 0;

    window.dash_clientside.new_study = {
        typed(...values) {
            clearTimeout(timer);
            byId("new-page").dataset.weights = values[1]; // by which the style sheet shows what they mean
            byId("new-study-checkpoint-field")?.toggleAttribute("hidden", values[1] !== "checkpoint");
            window.dash_clientside.set_props("new-study-submit", {disabled: true});
            window.dash_clientside.set_props("new-study-said", {children: ""});
            timer = setTimeout(() => window.dash_clientside.set_props("new-study-settled", {data: ++times}), MOMENT);
        },

        marked(...problems) {
            FIELDS.forEach((name, index) => {
                const control = byId(`new-study-${name}`), wrong = Boolean(problems[index]);
                if (control && control.tagName !== "INPUT") { // no element that a label can be for
                    control.setAttribute("aria-labelledby", `new-study-${name}-label new-study-${name}-value`);
                }
                control?.setAttribute("aria-invalid", wrong);
                control?.setAttribute("aria-describedby", `new-study-${name}-${wrong ? "problem" : "hint"}`);
                const more = wrong && control?.closest("details");
                if (more) {
                    more.open = true;
                }
            });
        },
    };
})();
