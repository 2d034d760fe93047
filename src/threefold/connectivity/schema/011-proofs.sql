-- Who spent a proof: one id for each request, which no client sees. A request whose answer from the database was lost
-- asks again, and is not taken for its own replay (admission.py). NULL: spent by an earlier version, for what was
-- deferred, or anew after a switch.
ALTER TABLE edge.proofs ADD COLUMN request uuid;
