-- Fewer pages: what a push writes, and what a list of referrers reads.

-- Each step of each upload wrote to it, for a sweep that looks at a few sessions now and then.
DROP INDEX uploads_expires_at;

-- A subject's descriptors lie side by side, in the order in which they are listed.
CREATE TABLE referrers_by_subject (
    repository_id       INTEGER NOT NULL,
    subject             TEXT    NOT NULL,
    digest              TEXT    NOT NULL,
    artifact_type       TEXT    NOT NULL,
    descriptor_bytes    INTEGER NOT NULL,
    descriptor          TEXT    NOT NULL,
    PRIMARY KEY (repository_id, subject, digest),
    FOREIGN KEY (repository_id, digest) REFERENCES manifests (repository_id, digest) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
INSERT INTO referrers_by_subject (repository_id, subject, digest, artifact_type, descriptor_bytes, descriptor)
SELECT repository_id, subject, digest, artifact_type, descriptor_bytes, descriptor
FROM referrers ORDER BY repository_id, subject, digest;
DROP TABLE referrers;
ALTER TABLE referrers_by_subject RENAME TO referrers;
CREATE INDEX referrers_digest ON referrers (repository_id, digest);
CREATE INDEX referrers_by_size ON referrers (repository_id, subject, digest, descriptor_bytes);
CREATE INDEX referrers_by_type ON referrers (repository_id, subject, artifact_type, digest, descriptor_bytes);
