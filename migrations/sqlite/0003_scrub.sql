-- How far the scrubber has come, which re-reads every blob; one row, and one replica at a time.
CREATE TABLE scrubs (
    id              INTEGER NOT NULL PRIMARY KEY,
    -- The last digest that was looked at.
    position        TEXT    NOT NULL,
    begun_at        INTEGER NOT NULL,
    -- What there was when the round began, and what has been read of it since.
    total_bytes     INTEGER NOT NULL,
    done_bytes      INTEGER NOT NULL,
    -- The replica that scrubs, until when unless it renews.
    holder          TEXT    NOT NULL,
    held_until      INTEGER NOT NULL
) STRICT;
INSERT INTO scrubs (id, position, begun_at, total_bytes, done_bytes, holder, held_until)
VALUES (1, '', 0, 0, 0, '', 0);

-- Those that are lost are counted, and are few.
CREATE INDEX blobs_missing_since ON blobs (missing_since) WHERE missing_since IS NOT NULL;
