# Every call fails in turn, and peers vanish at every byte, in the simulated world.
if(COPSE_TEST_SIMULATION)
    copse_test(sim_torture LIBS copse_sim_internal)
endif()
