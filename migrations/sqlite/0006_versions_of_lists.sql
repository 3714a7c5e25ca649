-- Pages of referrers that are kept in memory: what tells whether one still holds.

-- Another number after each change of a list, and none while it is empty.
CREATE TABLE referrer_lists (
    repository_id   INTEGER NOT NULL REFERENCES repositories (id) ON DELETE CASCADE,
    subject         TEXT    NOT NULL,
    version         INTEGER NOT NULL,
    PRIMARY KEY (repository_id, subject)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER referrers_come AFTER INSERT ON referrers BEGIN
    INSERT INTO referrer_lists (repository_id, subject, version)
    VALUES (new.repository_id, new.subject, random())
    ON CONFLICT (repository_id, subject) DO UPDATE SET version = excluded.version;
END;

CREATE TRIGGER referrers_go AFTER DELETE ON referrers BEGIN
    UPDATE referrer_lists SET version = random()
    WHERE repository_id = old.repository_id AND subject = old.subject;
    DELETE FROM referrer_lists
    WHERE repository_id = old.repository_id AND subject = old.subject
      AND NOT EXISTS (SELECT 1 FROM referrers
                      WHERE repository_id = old.repository_id AND subject = old.subject);
END;

INSERT INTO referrer_lists (repository_id, subject, version)
SELECT repository_id, subject, random() FROM referrers GROUP BY repository_id, subject;
