# Every call fails in turn, and peers vanish at every byte, in the simulated world.
copse_test(sim_torture LIBS copse_sim_internal)
