/* What must hold before any other script runs? It stands in the page itself (dashboard/app.py), so that it always loads. */
{
    /* In a plain object, "__proto__" is a name like any other. By the language's own rule, an index of words that somebody's
       class or folder is called so would write into what all objects inherit from, and break the page for everybody. */
    const {get, set} = Object.getOwnPropertyDescriptor(Object.prototype, "__proto__");
    const isPlain = object => object === Object.prototype || Object.getPrototypeOf(object) === Object.prototype;
    Object.defineProperty(Object.prototype, "__proto__", {
        get() {
            return isPlain(this) ? undefined : get.call(this);
        },
        set(value) {
            if (isPlain(this)) {
                Object.defineProperty(this, "__proto__", {value, writable: true, enumerable: true, configurable: true});
            } else {
                set.call(this, value);
            }
        },
    });
}
