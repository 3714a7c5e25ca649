-- What an upload into an object store needs to go on anywhere: its parts, and the bytes behind the last.

-- The multipart upload under storage_key, and how the object is divided into parts.
ALTER TABLE uploads ADD COLUMN multipart        TEXT;
ALTER TABLE uploads ADD COLUMN part_bytes       INTEGER NOT NULL DEFAULT 0;
ALTER TABLE uploads ADD COLUMN parts_grow       INTEGER NOT NULL DEFAULT 0;
ALTER TABLE uploads ADD COLUMN parts_count      INTEGER NOT NULL DEFAULT 0;
-- What the writer has begun under its own name, which is a key too, and the session does not stand on yet.
ALTER TABLE uploads ADD COLUMN writer_multipart TEXT;

-- What the store calls each part.
CREATE TABLE upload_parts (
    upload_id   TEXT    NOT NULL REFERENCES uploads (id) ON DELETE CASCADE,
    number      INTEGER NOT NULL,
    part_id     TEXT    NOT NULL,
    PRIMARY KEY (upload_id, number)
) STRICT, WITHOUT ROWID;

-- The bytes behind the last part: a store gives parts back only once the object is complete.
CREATE TABLE upload_tails (
    upload_id   TEXT    NOT NULL PRIMARY KEY REFERENCES uploads (id) ON DELETE CASCADE,
    content     BLOB    NOT NULL
) STRICT;

-- A multipart upload to abort besides the object.
ALTER TABLE doomed_objects ADD COLUMN multipart TEXT;

-- One store an index, whichever replica is first.
CREATE UNIQUE INDEX stores_one ON stores (adopted_at IS NOT NULL);
