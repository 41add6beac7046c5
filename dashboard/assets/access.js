/* What if somebody's sign-in ends while their page is open? The page leads them to sign in, and back to what they saw. */
{
    const fetched = window.fetch;
    window.fetch = async (...asked) => {
        const answer = await fetched(...asked);
        if (answer.status === 401 && answer.url.startsWith(location.origin)) {
            location.assign(`/sign-in?next=${encodeURIComponent(location.pathname + location.search)}`);
        }
        return answer;
    };
}
