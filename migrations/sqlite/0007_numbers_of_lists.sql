-- The numbers of lists of referrers are by chance, here since they are there: there is nothing to do.

SELECT 1;
