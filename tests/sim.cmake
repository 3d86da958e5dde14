# The simulated world, and what is tested in it.
copse_test(sim LIBS copse_sim_internal)
