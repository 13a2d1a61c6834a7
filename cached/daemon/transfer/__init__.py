"""Getting bytes: from worker processes that fetch, over connections that are shared out."""
