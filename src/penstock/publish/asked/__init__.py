"""What people ask a learner for: letters in its folder, each answered once."""
