-- The numbers of lists of referrers are by chance, here since they are there.

UPDATE referrer_lists SET version = random();
