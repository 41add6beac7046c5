"""What is asked of the queue, and what becomes of it? Requests, jobs, the ledger, the client. No torch, no Dash."""
