"""``service.yaml`` read and written. What the settings mean is said in `penstock.spec`, not here."""
