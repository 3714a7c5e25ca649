-- The index: what is stored, under which names, and what needs what.
-- A storage key is, at any moment, in exactly one of uploads, blobs and doomed_objects.

-- The object store this index describes; one row.
CREATE TABLE stores (
    id          TEXT    NOT NULL PRIMARY KEY,
    adopted_at  INTEGER NOT NULL
) STRICT;

CREATE TABLE repositories (
    id          INTEGER NOT NULL PRIMARY KEY,
    name        TEXT    NOT NULL UNIQUE,
    created_at  INTEGER NOT NULL
) STRICT;

-- A blob on its way in. Bound to a repository by name: the repository is made with its first content.
CREATE TABLE uploads (
    id              TEXT    NOT NULL PRIMARY KEY,
    repository      TEXT    NOT NULL,
    storage_key     TEXT    NOT NULL UNIQUE,
    algorithm       TEXT    NOT NULL,
    offset_bytes    INTEGER NOT NULL,
    hash_state      BLOB    NOT NULL,
    -- The one request that may write now, until when unless it renews.
    writer          TEXT,
    writer_until    INTEGER NOT NULL DEFAULT 0,
    created_at      INTEGER NOT NULL,
    expires_at      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX uploads_expires_at ON uploads (expires_at);

-- One object a digest for the whole registry.
CREATE TABLE blobs (
    digest          TEXT    NOT NULL PRIMARY KEY,
    size_bytes      INTEGER NOT NULL,
    storage_key     TEXT    NOT NULL UNIQUE,
    created_at      INTEGER NOT NULL,
    -- Since when no repository may hold it; null while one does.
    idle_since      INTEGER,
    -- Since when the object is known to be lost or damaged; the next push heals it.
    missing_since   INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX blobs_idle_since ON blobs (idle_since) WHERE idle_since IS NOT NULL;

-- Objects that nothing needs, to be deleted from the store.
CREATE TABLE doomed_objects (
    storage_key     TEXT    NOT NULL PRIMARY KEY,
    not_before      INTEGER NOT NULL,
    attempts        INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE INDEX doomed_objects_not_before ON doomed_objects (not_before);

-- What a repository holds. The foreign key is the lock between a push and the collector.
CREATE TABLE repository_blobs (
    repository_id   INTEGER NOT NULL REFERENCES repositories (id),
    digest          TEXT    NOT NULL REFERENCES blobs (digest),
    linked_at       INTEGER NOT NULL,
    -- Since when no manifest may need it; null while one does. A pusher who was told that the blob
    -- is here starts it anew.
    idle_since      INTEGER,
    PRIMARY KEY (repository_id, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX repository_blobs_digest ON repository_blobs (digest);
CREATE INDEX repository_blobs_idle_since ON repository_blobs (idle_since) WHERE idle_since IS NOT NULL;

CREATE TABLE manifests (
    id              INTEGER NOT NULL PRIMARY KEY,
    repository_id   INTEGER NOT NULL REFERENCES repositories (id),
    digest          TEXT    NOT NULL,
    media_type      TEXT    NOT NULL,
    size_bytes      INTEGER NOT NULL,
    subject         TEXT,
    pushed_at       INTEGER NOT NULL,
    content         BLOB    NOT NULL,
    UNIQUE (repository_id, digest)
) STRICT;

CREATE TABLE manifest_blobs (
    manifest_id     INTEGER NOT NULL REFERENCES manifests (id) ON DELETE CASCADE,
    repository_id   INTEGER NOT NULL,
    digest          TEXT    NOT NULL,
    PRIMARY KEY (manifest_id, digest),
    FOREIGN KEY (repository_id, digest) REFERENCES repository_blobs (repository_id, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX manifest_blobs_digest ON manifest_blobs (repository_id, digest);

-- The entries of an index that are manifests themselves.
CREATE TABLE manifest_children (
    manifest_id     INTEGER NOT NULL REFERENCES manifests (id) ON DELETE CASCADE,
    repository_id   INTEGER NOT NULL,
    digest          TEXT    NOT NULL,
    PRIMARY KEY (manifest_id, digest),
    FOREIGN KEY (repository_id, digest) REFERENCES manifests (repository_id, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX manifest_children_digest ON manifest_children (repository_id, digest);

-- What a manifest names that was allowed to be absent. Once it arrives it moves to the tables above.
CREATE TABLE missing_references (
    repository_id   INTEGER NOT NULL REFERENCES repositories (id),
    digest          TEXT    NOT NULL,
    manifest_id     INTEGER NOT NULL REFERENCES manifests (id) ON DELETE CASCADE,
    PRIMARY KEY (repository_id, digest, manifest_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX missing_references_manifest ON missing_references (manifest_id);

CREATE TABLE tags (
    repository_id   INTEGER NOT NULL REFERENCES repositories (id),
    name            TEXT    NOT NULL,
    digest          TEXT    NOT NULL,
    tagged_at       INTEGER NOT NULL,
    PRIMARY KEY (repository_id, name),
    FOREIGN KEY (repository_id, digest) REFERENCES manifests (repository_id, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX tags_digest ON tags (repository_id, digest);

-- Who refers to a subject, with the descriptor the referrers API answers.
CREATE TABLE referrers (
    repository_id       INTEGER NOT NULL,
    subject             TEXT    NOT NULL,
    digest              TEXT    NOT NULL,
    artifact_type       TEXT    NOT NULL,
    descriptor_bytes    INTEGER NOT NULL,
    descriptor          TEXT    NOT NULL,
    PRIMARY KEY (repository_id, subject, digest),
    FOREIGN KEY (repository_id, digest) REFERENCES manifests (repository_id, digest) ON DELETE CASCADE
) STRICT;
CREATE INDEX referrers_digest ON referrers (repository_id, digest);
-- A page is chosen from these two alone; only then are its descriptors read.
CREATE INDEX referrers_by_size ON referrers (repository_id, subject, digest, descriptor_bytes);
CREATE INDEX referrers_by_type ON referrers (repository_id, subject, artifact_type, digest, descriptor_bytes);
