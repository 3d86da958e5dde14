# The simulated kernel next to the real one.
copse_test(parity LIBS copse_sim_internal)
