/* Which theme? That of the address, else the one picked in this browser before, else that of the system. Runs before
   anything is painted. */
{
    const asked = new URLSearchParams(location.search).get("theme");
    document.documentElement.dataset.bsTheme =
        ["light", "dark"].includes(asked) ? asked : localStorage.getItem("headscope-theme") || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
}
