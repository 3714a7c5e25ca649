-- Fewer pages: what a push writes.

-- Each step of each upload wrote to it, for a sweep that looks at a few sessions now and then.
DROP INDEX uploads_expires_at;
