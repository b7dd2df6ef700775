"""Acting: planners that turn observations into plans, guards that judge plans, agents that execute them."""
