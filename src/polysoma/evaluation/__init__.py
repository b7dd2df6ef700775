"""How good a policy is: successes out of trials, intervals, reports."""
