/* What does one head's attention say? The numbers of one matrix, (query, key), as the server sends them: float16.
   Tokens are numbered as in the model: prefix tokens first, then patches, row by row from the top left. */
window.headAttention = window.headAttention || {};
(() => {
    const FINITE = 0x7c00; // codes of float16 below it are the numbers from 0 on, and a greater code is a greater number

    /* The number of each code of float16. */
    const NUMBERS = Float32Array.from({length: 0x10000}, (_, code) => {
        const [sign, exponent, fraction] = [code >> 15 ? -1 : 1, (code >> 10) & 31, (code & 1023) / 1024];
        if (exponent === 31) {
            return fraction ? NaN : sign * Infinity;
        }
        return sign * (exponent ? (1 + fraction) * 2 ** (exponent - 15) : fraction * 2 ** -14);
    });

    class Head {
        /* Of the bytes that the server sent, and what `headscope.facts` says of the study. */
        constructor(bytes, {tokens, prefix, grid, has_cls, histogram}) {
            if (bytes.byteLength !== 2 * tokens ** 2) {
                throw new Error(`the server sent ${bytes.byteLength} bytes of attention, not ${2 * tokens ** 2}; reload the page`);
            }
            this.codes = new Uint16Array(bytes);
            Object.assign(this, {tokens, prefix, grid, has_cls, first: prefix.length});
            this.#sort();
            this.#scale();
            this.histogram = this.#histogram(histogram);
        }

        /* order: all cells, query · tokens + key, from the strongest. atLeast: of each code, how many are not below it. */
        #sort() {
            const {codes} = this;
            const atLeast = new Uint32Array(FINITE + 1);
            for (let cell = 0; cell < codes.length; cell++) {
                atLeast[codes[cell]]++;
            }
            for (let code = FINITE - 1; code >= 0; code--) {
                atLeast[code] += atLeast[code + 1];
            }
            const next = atLeast.slice(1);
            this.order = new Uint32Array(codes.length);
            for (let cell = 0; cell < codes.length; cell++) {
                this.order[next[codes[cell]]++] = cell;
            }
            this.atLeast = atLeast;
        }

        /* most: the strongest attention from or to a prefix token, and between patches; each has its own scale, which goes
           with the square root. levels: of each code, its place on that scale, 0 to 255. */
        #scale() {
            const strongest = wanted => this.order.find(cell => this.isPrefixCell(cell) === wanted);
            const most = cell => (cell === undefined ? 0 : NUMBERS[this.codes[cell]]);
            this.most = {cls: this.first ? most(strongest(true)) : 0, patch: most(strongest(false))};
            const levels = top => Uint8Array.from({length: FINITE}, (_, code) => 255 * Math.min(1, Math.sqrt(NUMBERS[code] / (top || 1))));
            this.levels = {cls: levels(this.most.cls), patch: levels(this.most.patch)};
        }

        /* How many values are in each of so many bins, evenly spaced by log; the first has all that are below it, too. Its
           axis ends at `floor`, or at the least value. */
        #histogram({bins, least: floor}) {
            const {codes, order, atLeast} = this;
            const most = NUMBERS[codes[order[0]]] || 1;
            const least = Math.min(Math.max(floor, NUMBERS[codes[order.at(-1)]]), most / 1.2);
            const counts = new Uint32Array(bins);
            const place = number => Math.log(number / least) / Math.log(most / least);
            for (let code = 0; code < FINITE; code++) {
                const bin = Math.floor(bins * place(Math.max(least, NUMBERS[code])));
                counts[Math.min(bins - 1, bin)] += atLeast[code] - atLeast[code + 1];
            }
            return {
                least,
                most,
                counts,
                below: NUMBERS[codes[order.at(-1)]] < least,
                place: number => Math.min(1, Math.max(0, place(Math.max(least, number)))),
                number: share => least * (most / least) ** Math.min(1, Math.max(0, share)),
            };
        }

        isPrefix(token) {
            return token < this.first;
        }

        isPrefixCell(cell) {
            return cell < this.first * this.tokens || cell % this.tokens < this.first;
        }

        level(cell) {
            return this.levels[this.isPrefixCell(cell) ? "cls" : "patch"][this.codes[cell]];
        }

        attention(query, key) {
            return NUMBERS[this.codes[query * this.tokens + key]];
        }

        /* The strongest `percent` of the values: the least of them, its code, and how many are not below it. */
        top(percent) {
            const rank = Math.min(this.order.length, Math.max(1, Math.floor((percent / 100) * this.order.length + 0.5)));
            const code = this.codes[this.order[rank - 1]];
            return {number: NUMBERS[code], code, count: this.atLeast[code]};
        }

        /* How many per cent of the values are not below `number`. */
        percent(number) {
            let [low, high] = [0, FINITE];
            while (low < high) {
                const middle = (low + high) >> 1;
                [low, high] = NUMBERS[middle] < number ? [middle + 1, high] : [low, middle];
            }
            return (100 * Math.max(1, this.atLeast[Math.min(low, FINITE)])) / this.order.length;
        }

        /* Cells with a query or a key that is asked for, weakest first, of those not below `code`. */
        cellsOf({query, key}, code) {
            const found = [];
            for (let token = 0; token < this.tokens; token++) {
                if (query !== undefined) {
                    found.push(query * this.tokens + token);
                }
                if (key !== undefined && token !== query) {
                    found.push(token * this.tokens + key);
                }
            }
            return found.filter(cell => this.codes[cell] >= code).sort((a, b) => this.level(a) - this.level(b));
        }

        /* Attention that each patch gets from `token` ("target") or pays to it ("source"). */
        overPatches(token, side) {
            return Float32Array.from({length: this.tokens - this.first}, (_, patch) =>
                side === "target" ? this.attention(token, this.first + patch) : this.attention(this.first + patch, token),
            );
        }

        /* Attention that each patch gets from all patches, on average. */
        get mean() {
            if (!this.kept) {
                const patches = this.tokens - this.first;
                this.kept = new Float32Array(patches);
                for (let query = this.first; query < this.tokens; query++) {
                    for (let patch = 0; patch < patches; patch++) {
                        this.kept[patch] += this.attention(query, this.first + patch) / patches;
                    }
                }
            }
            return this.kept;
        }

        /* Share of a token's attention that goes to prefix tokens. */
        toPrefix(token) {
            return this.prefix.reduce((sum, _, key) => sum + this.attention(token, key), 0);
        }

        /* What prefix tokens are called together; empty if there are none. */
        get prefixName() {
            return this.first === 0 ? "" : this.first === 1 ? this.short(0) : "prefix";
        }

        place(token) {
            const patch = token - this.first;
            return [Math.floor(patch / this.grid[1]), patch % this.grid[1]];
        }

        /* As "CLS", "R1" or "(3, 4)", and with more room "CLS", "register 1" or "patch (3, 4)". */
        short(token) {
            return this.isPrefix(token) ? this.prefix[token].replace("register ", "R") : `(${this.place(token).join(", ")})`;
        }

        name(token) {
            return this.isPrefix(token) ? this.prefix[token] : `patch ${this.short(token)}`;
        }
    }

    Object.assign(window.headAttention, {Head, NUMBERS});
})();
