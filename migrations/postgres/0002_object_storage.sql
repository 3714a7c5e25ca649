-- What an upload into an object store needs to go on anywhere: its parts, and the bytes behind the last.

-- The multipart upload under storage_key, and how the object is divided into parts.
ALTER TABLE uploads ADD COLUMN multipart        TEXT COLLATE "C";
ALTER TABLE uploads ADD COLUMN part_bytes       BIGINT NOT NULL DEFAULT 0;
ALTER TABLE uploads ADD COLUMN parts_grow       BIGINT NOT NULL DEFAULT 0;
ALTER TABLE uploads ADD COLUMN parts_count      BIGINT NOT NULL DEFAULT 0;
-- What the writer has begun under its own name, which is a key too, and the session does not stand on yet.
ALTER TABLE uploads ADD COLUMN writer_multipart TEXT COLLATE "C";

-- What the store calls each part.
CREATE TABLE upload_parts (
    upload_id   TEXT COLLATE "C"    NOT NULL REFERENCES uploads (id) ON DELETE CASCADE,
    number      BIGINT NOT NULL,
    part_id     TEXT COLLATE "C"    NOT NULL,
    PRIMARY KEY (upload_id, number)
);

-- The bytes behind the last part: a store gives parts back only once the object is complete.
CREATE TABLE upload_tails (
    upload_id   TEXT COLLATE "C"    NOT NULL PRIMARY KEY REFERENCES uploads (id) ON DELETE CASCADE,
    content     BYTEA   NOT NULL
);
-- Layers are compressed already.
ALTER TABLE upload_tails ALTER COLUMN content SET STORAGE EXTERNAL;

-- A multipart upload to abort besides the object.
ALTER TABLE doomed_objects ADD COLUMN multipart TEXT COLLATE "C";

-- One store an index, whichever replica is first.
CREATE UNIQUE INDEX stores_one ON stores ((adopted_at IS NOT NULL));
