/* Which theme? The one picked in this browser before, else that of the system. Runs before anything is painted. */
document.documentElement.dataset.bsTheme =
    localStorage.getItem("headscope-theme") || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
